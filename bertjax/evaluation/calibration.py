"""Whether a classifier is right as often as it says."""

import numpy as np
from scipy.special import log_softmax

BINS = 15


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """The mean gap between confidence, the top class's probability, and accuracy (Guo et al., ICML 2017, equation 3).

    Σ_m |B_m| / N · |accuracy(B_m) − confidence(B_m)|, with B_m the examples whose confidence lies in
    ((m − 1) / bins, m / bins].

    Args:
      logits: [N, C].
      labels: [N], classes.
      bins: M, of equal width.

    Returns:
      In [0, 1]; 0 is calibrated.
    """
    confidence = np.exp(log_softmax(logits.astype(np.float64), axis=-1).max(axis=-1))
    is_right = logits.argmax(axis=-1) == labels
    # Softmax may round to a little more than 1.
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=is_right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
