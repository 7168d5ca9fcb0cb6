"""Calibration: whether a classifier is right as often as its confidence says."""

import numpy as np
from scipy.special import log_softmax

NUM_BINS = 15


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """The mean gap between confidence, the top class's probability, and accuracy (Guo et al., ICML 2017, equation 3).

    Σ_m |B_m| / N · |accuracy(B_m) − confidence(B_m)|. Bin B_m holds the examples with confidence in
    ((m − 1) / num_bins, m / num_bins].

    Args:
      logits: [N, C].
      labels: class indices [N].
      num_bins: number of bins of equal width.

    Returns:
      A value in [0, 1]; 0 is perfectly calibrated.
    """
    confidence = np.exp(log_softmax(logits.astype(np.float64), axis=-1).max(axis=-1))
    is_correct = logits.argmax(axis=-1) == labels
    # Clipped because softmax may round to slightly more than 1.
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))
