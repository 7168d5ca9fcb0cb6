"""Bootstrap confidence intervals: how far a metric would vary over other evaluation sets of the same size."""

from collections.abc import Callable, Mapping

import numpy as np

NUM_RESAMPLES = 1000
CONFIDENCE_LEVEL = 95
"""In percent."""


def bootstrap_intervals(
    metrics_fn: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    outputs: np.ndarray,
    labels: np.ndarray,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The 95% percentile interval of each metric over resampled examples (Efron and Tibshirani, 1993, chapter 13).

    The interval covers the choice of examples, not the training seed. Resampling adds noise, and noise only raises a
    calibration error, so the interval of that metric is biased upwards.

    Args:
      metrics_fn: (outputs [N, C], labels [N]) to metric values by name.
      outputs: [N, C], N at least 1.
      labels: [N].
      num_resamples: number of resamples, each of N examples drawn with replacement.
      seed: seed of the resamples; the same seed draws the same ones.

    Returns:
      [low, high] for each metric name.
    """
    rng, num_examples = np.random.default_rng(seed), len(labels)
    # One resample at a time: a thousand of a large split do not fit in memory.
    resamples = (rng.integers(num_examples, size=num_examples) for _ in range(num_resamples))
    resampled = [metrics_fn(outputs[rows], labels[rows]) for rows in resamples]
    tail = (100 - CONFIDENCE_LEVEL) / 2
    return {
        name: np.percentile([values[name] for values in resampled], (tail, 100 - tail)).tolist()
        for name in resampled[0]
    }
