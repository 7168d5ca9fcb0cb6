"""How far a metric would move on another draw of as many examples: percentile intervals by the bootstrap."""

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000


COVERAGE = 95


def intervals(
    metrics: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    outputs: np.ndarray,
    labels: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The 95% percentile interval of each metric over resampled examples (Efron and Tibshirani, 1993, chapter 13).

    It tells of the examples that were drawn, not of the training's seed. A calibration error can only grow by noise,
    and resampling adds some: its interval lies high.

    Args:
      metrics: (outputs [N, C], labels [N]) to values by name.
      outputs: [N, C], N at least 1.
      labels: [N].
      resamples: how many sets of N examples are drawn, with replacement; the same ones at every call.
      seed: of the draws.

    Returns:
      [low, high] by the metrics' names.
    """
    rng, count = np.random.default_rng(seed), len(labels)
    # One resample at a time: a thousand of a large split do not fit in memory.
    draws = (rng.integers(count, size=count) for _ in range(resamples))
    drawn = [metrics(outputs[rows], labels[rows]) for rows in draws]
    tail = (100 - COVERAGE) / 2
    return {name: np.percentile([values[name] for values in drawn], (tail, 100 - tail)).tolist() for name in drawn[0]}
