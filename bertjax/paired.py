"""Is one method better than another? Paired differences over seeds, with bootstrap intervals and a correction."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_CHUNK = 500
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From weights [R, N] that add up to 1 in each row, predictions [K, N] of K seeds and labels [N], to scores [R, K]."""


class Difference(NamedTuple):
    """Of a method's score to another's, on the seeds that they share.

    Attributes:
      seeds: how many.
      mean: of the differences.
      low: of the 95% interval.
      high: of the 95% interval.
      p: two-sided: how often a resample's difference has the other sign, doubled, at least 2 / RESAMPLES; and no less
        than that of a paired t-test over the seeds, as few of them seldom differ in sign.
    """

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def accuracy(weights: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weighted share of classes that are right."""
    return weights @ (predicted == labels).astype(weights.dtype).T


def pearson(weights: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weighted correlation of scores and labels."""
    # Centred on the whole, so that the differences of moments do not cancel.
    x, y = predicted - predicted.mean(axis=1, keepdims=True), labels - labels.mean()
    x, y = x.astype(weights.dtype), y.astype(weights.dtype)
    mean_x, mean_y = weights @ x.T, (weights @ y)[:, None]
    covariance = weights @ (x * y).T - mean_x * mean_y
    variances = (weights @ (x * x).T - mean_x**2) * ((weights @ (y * y))[:, None] - mean_y**2)
    # A constant correlates with nothing.
    return np.where(variances > 1e-12, covariance / np.sqrt(np.maximum(variances, 1e-12)), 0.0)


# Matthews' correlation is Pearson's of two classes.
SCORES: Mapping[str, Score] = {"accuracy": accuracy, "pearson": pearson, "matthews": pearson}


def difference(
    ours: Mapping[int, Sequence[float]],
    theirs: Mapping[int, Sequence[float]],
    labels: Sequence[float],
    score: Score,
    resamples: int = RESAMPLES,
) -> Difference | None:
    """Compares two methods, each with its predictions [N] for the same examples by seed; None where no seed is shared.

    The interval resamples seeds and examples, both with replacement, the same for both methods: a difference within it
    could come of other seeds, or of another evaluation set of its size.

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    a, b = (np.array([runs[seed] for seed in seeds], np.float64) for runs in (ours, theirs))
    truth, rng = np.asarray(labels, np.float64), np.random.default_rng(0)
    even = np.full((1, len(truth)), 1 / len(truth))
    by_seed = (score(even, a, truth) - score(even, b, truth))[0]
    draws = []
    for _ in range(-(-resamples // _CHUNK)):
        examples, picked = (_resampled(n, rng) for n in (len(truth), len(seeds)))
        draws.append(np.sum(picked * (score(examples, a, truth) - score(examples, b, truth)), axis=1))
    found = np.concatenate(draws)
    low, high = np.quantile(found, (0.025, 0.975))
    tail = min(float(np.mean(found <= 0)), float(np.mean(found >= 0)))
    p = min(1.0, 2 * max(tail, 1 / len(found)))
    if np.ptp(by_seed) > 0:
        p = max(p, float(stats.ttest_1samp(by_seed, 0).pvalue))
    return Difference(len(seeds), float(by_seed.mean()), float(low), float(high), p)


def _resampled(n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights [_CHUNK, n] of how often each of n is drawn in n draws with replacement; those of a row sum to 1."""
    drawn = rng.integers(0, n, (_CHUNK, n)) + n * np.arange(_CHUNK)[:, None]
    return np.bincount(drawn.ravel(), minlength=_CHUNK * n).reshape(_CHUNK, n) / n


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm, Scandinavian Journal of Statistics, 1979)."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected
