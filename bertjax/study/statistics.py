"""Compares methods: score differences paired by seed, with intervals and p-values corrected for their number."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_CHUNK = 500  # resamples in memory at once
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps example weights [R, N], whose rows sum to 1, predictions [K, N] of K seeds and labels [N] to scores [R, K]."""


class PairedDifference(NamedTuple):
    """A method's score minus another's, on the seeds that both have.

    Attributes:
      seeds: number of shared seeds.
      mean: mean difference.
      low: lower end of the 95% interval.
      high: upper end of the 95% interval.
      p: two-sided p-value, not corrected.
    """

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def accuracy(weights: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weighted share of correct classes."""
    return weights @ (predicted == labels).astype(weights.dtype).T


def pearson(weights: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weighted Pearson correlation of scores and labels; 0 if either is constant."""
    # Centred first: the differences of moments below would lose precision.
    x, y = predicted - predicted.mean(axis=1, keepdims=True), labels - labels.mean()
    x, y = x.astype(weights.dtype), y.astype(weights.dtype)
    mean_x, mean_y = weights @ x.T, (weights @ y)[:, None]
    covariance = weights @ (x * y).T - mean_x * mean_y
    variances = (weights @ (x * x).T - mean_x**2) * ((weights @ (y * y))[:, None] - mean_y**2)
    # Below this a variance is rounding error, whatever the unit.
    floor = 1e-12 * max(float(np.mean(x * x) * np.mean(y * y)), np.finfo(x.dtype).tiny)
    return np.where(variances > floor, covariance / np.sqrt(np.maximum(variances, floor)), 0.0)


# Matthews correlation is the Pearson correlation of two classes.
SCORES: Mapping[str, Score] = {"accuracy": accuracy, "pearson": pearson, "matthews": pearson}


def paired_difference(
    predictions: Mapping[int, Sequence[float]],
    other_predictions: Mapping[int, Sequence[float]],
    labels: Sequence[float],
    score: Score,
    resamples: int = RESAMPLES,
) -> PairedDifference | None:
    """Estimates how much one method's score exceeds another's, paired by seed, with a 95% interval and a p-value.

    Both account for other seeds and for another evaluation set of the same size. Over K seeds and N examples, the
    variance of the mean difference is σ_s²/K + σ_e²/N + σ_se²/KN:

    - The variance over seeds estimates the first and the last term.
    - A bootstrap of the examples, the same for both methods and all seeds, estimates the last two.
    - Both contain the last term, so it is subtracted once. A bootstrap for each seed alone estimates it. (Resampling
      seeds and examples together would count it three times.)

    Interval and p come from Student's t with Satterthwaite's degrees of freedom. They are never narrower, or smaller,
    than those of a paired t-test over seeds alone: a few seeds may agree by chance, and without this guard the error
    rate would be 1.5 times the nominal one at 5%, nine times at 0.2%. With a single seed they reflect the examples
    alone.

    Args:
      predictions: the method's predictions [N] for the same examples, by seed.
      other_predictions: the other method's, likewise.
      labels: the labels [N].
      score: the score to compare.
      resamples: number of bootstrap resamples.

    Returns:
      The difference, or None if the methods share no seed.

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 12; Owen, The pigeonhole bootstrap,
      Annals of Applied Statistics, 2007.
    """
    seeds = sorted(predictions.keys() & other_predictions.keys())
    if not seeds:
        return None
    a, b = (np.array([runs[seed] for seed in seeds], np.float64) for runs in (predictions, other_predictions))
    truth, rng, count = np.asarray(labels, np.float64), np.random.default_rng(0), len(seeds)

    def differences(weights: np.ndarray) -> np.ndarray:
        return score(weights, a, truth) - score(weights, b, truth)

    by_seed = differences(np.full((1, len(truth)), 1 / len(truth)))[0]
    draws = np.concatenate([differences(_resampled(len(truth), rng)) for _ in range(-(-resamples // _CHUNK))])
    of_examples, of_seeds, of_both = float(draws.mean(axis=1).var()), 0.0, 0.0
    if count > 1:
        of_seeds = float(by_seed.var(ddof=1)) / count
        of_both = (float(draws.var(axis=0).mean()) - of_examples) / (count - 1)
    # These are estimates; the true sum is no smaller than either part.
    variance = max(of_seeds + of_examples - of_both, of_seeds, of_examples)
    mean = float(by_seed.mean())
    if variance == 0:
        return PairedDifference(count, mean, mean, mean, float(mean == 0))
    parts = (of_seeds, count - 1), (of_examples, len(truth) - 1)
    freedom = variance**2 / sum(part**2 / n for part, n in parts if part > 0)
    errors = [(variance**0.5, freedom), *([(of_seeds**0.5, count - 1)] if of_seeds > 0 else [])]
    reach = max(error * float(stats.t.ppf(0.975, n)) for error, n in errors)
    p = max(2 * float(stats.t.sf(abs(mean) / error, n)) for error, n in errors)
    return PairedDifference(count, mean, mean - reach, mean + reach, p)


def _resampled(n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights [_CHUNK, n]: in each row, the share of n draws with replacement that hit each example."""
    drawn = rng.integers(0, n, (_CHUNK, n)) + n * np.arange(_CHUNK)[:, None]
    return np.bincount(drawn.ravel(), minlength=_CHUNK * n).reshape(_CHUNK, n) / n


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number; returns them in the same order.

    Reference:
      Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
