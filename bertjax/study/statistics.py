"""Is one method better than another? Differences paired by seed, their intervals, and a correction for their number."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000


_CHUNK = 500


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From weights [R, N] that add up to 1 in each row, predictions [K, N] of K seeds and labels [N], to scores [R, K]."""


class PairedDifference(NamedTuple):
    """Of a method's score to another's, on the seeds that they share.

    Attributes:
      seeds: how many.
      mean: of the differences.
      low: of the 95% interval.
      high: of the 95% interval.
      p: two-sided.
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
    # A constant correlates with nothing, whatever the units.
    least = 1e-12 * max(float(np.mean(x * x) * np.mean(y * y)), np.finfo(x.dtype).tiny)
    return np.where(variances > least, covariance / np.sqrt(np.maximum(variances, least)), 0.0)


# Matthews' correlation is Pearson's of two classes.
SCORES: Mapping[str, Score] = {"accuracy": accuracy, "pearson": pearson, "matthews": pearson}


def paired_difference(
    ours: Mapping[int, Sequence[float]],
    theirs: Mapping[int, Sequence[float]],
    labels: Sequence[float],
    score: Score,
    resamples: int = RESAMPLES,
) -> PairedDifference | None:
    """Compares two methods, each with its predictions [N] for the same examples by seed; None where no seed is shared.

    A difference within the interval could come of other seeds, or of another evaluation set of its size. The variance
    of the mean difference over K seeds and N examples has three parts, σ_s²/K + σ_e²/N + σ_se²/KN. That of the seeds'
    differences is the first and the last; that of a bootstrap of the examples, the same for both methods and all
    seeds, the second and the last; and the last, which both hold, is known from a bootstrap of each seed alone.
    (Resampling seeds and examples at once counts it three times.) Interval and p come from Student's t with
    Satterthwaite's degrees of freedom, and again from a paired t-test of the seeds alone; the wider counts. Few seeds
    may agree by chance: the first way alone then errs 1.5 times as often as it says at 5%, nine times at 0.2%. Of one
    seed both tell of the examples alone.

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 12; Owen, The pigeonhole bootstrap,
      Annals of Applied Statistics, 2007.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    a, b = (np.array([runs[seed] for seed in seeds], np.float64) for runs in (ours, theirs))
    truth, rng, count = np.asarray(labels, np.float64), np.random.default_rng(0), len(seeds)

    def by_seed(weights: np.ndarray) -> np.ndarray:
        return score(weights, a, truth) - score(weights, b, truth)

    found = by_seed(np.full((1, len(truth)), 1 / len(truth)))[0]
    draws = np.concatenate([by_seed(_resampled(len(truth), rng)) for _ in range(-(-resamples // _CHUNK))])
    of_examples, of_seeds, shared = float(draws.mean(axis=1).var()), 0.0, 0.0
    if count > 1:
        of_seeds = float(found.var(ddof=1)) / count
        shared = (float(draws.var(axis=0).mean()) - of_examples) / (count - 1)
    # The parts are estimates: less than either the whole cannot be.
    variance = max(of_seeds + of_examples - shared, of_seeds, of_examples)
    mean = float(found.mean())
    if variance == 0:
        return PairedDifference(count, mean, mean, mean, float(mean == 0))
    parts = (of_seeds, count - 1), (of_examples, len(truth) - 1)
    freedom = variance**2 / sum(part**2 / n for part, n in parts if part > 0)
    # Where few seeds happen to agree, the second errs on the safe side.
    ways = [(variance**0.5, freedom), *([(of_seeds**0.5, count - 1)] if of_seeds > 0 else [])]
    reach = max(error * float(stats.t.ppf(0.975, n)) for error, n in ways)
    p = max(2 * float(stats.t.sf(abs(mean) / error, n)) for error, n in ways)
    return PairedDifference(count, mean, mean - reach, mean + reach, p)


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
