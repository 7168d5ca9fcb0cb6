import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bertjax import paired

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300)


def runs(share, seeds, rng):
    """Predictions of which about a share is right."""
    return {seed: np.where(rng.random(300) < share, LABELS, (LABELS + 1) % 3) for seed in seeds}


def matthews_correlation(predicted, labels):
    """From the four counts, as Matthews (1975) has it."""
    (tn, fn), (fp, tp) = ([np.sum((predicted == p) & (labels == y)) for y in (0, 1)] for p in (0, 1))
    return (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


ORACLES = {
    "accuracy": lambda predicted, labels: np.mean(predicted == labels),
    "pearson": lambda predicted, labels: np.corrcoef(predicted, labels)[0, 1],
    "matthews": matthews_correlation,
}


@pytest.mark.parametrize("score", paired.SCORES)
def test_weighted_scores_are_those_of_repeated_examples(score):
    if score == "pearson":
        labels = RNG.normal(size=40)
        predicted = np.stack([labels + RNG.normal(size=40), RNG.normal(size=40)])
    else:
        classes = 2 if score == "matthews" else 3
        labels, predicted = RNG.integers(0, classes, 40), RNG.integers(0, classes, (2, 40))
    counts = RNG.multinomial(40, np.full(40, 1 / 40), 5)
    found = paired.SCORES[score](counts / 40, predicted, labels)
    for row, count in zip(found, counts, strict=True):
        picked = np.repeat(np.arange(40), count)
        for value, run in zip(row, predicted, strict=True):
            assert value == pytest.approx(ORACLES[score](run[picked], labels[picked]), abs=1e-9)


def test_a_real_difference_is_seen_and_none_is_not():
    rng = np.random.default_rng(1)
    good, same, bad = (runs(share, range(5), rng) for share in (0.8, 0.8, 0.6))
    found = paired.difference(good, bad, LABELS, paired.accuracy)
    expected = np.mean([np.mean(good[s] == LABELS) - np.mean(bad[s] == LABELS) for s in range(5)])
    assert found.mean == pytest.approx(expected)
    assert found.low < found.mean < found.high
    apart = [np.mean(good[s] == LABELS) - np.mean(bad[s] == LABELS) for s in range(5)]
    assert (found.seeds, found.low > 0.1) == (5, True)
    assert found.p == pytest.approx(max(2 / paired.RESAMPLES, ttest_1samp(apart, 0).pvalue))
    assert found.p < 0.01
    mirrored = paired.difference(bad, good, LABELS, paired.accuracy)
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx((-found.mean, -found.high, -found.low))
    none = paired.difference(good, same, LABELS, paired.accuracy)
    assert none.low < 0 < none.high
    assert none.p > 0.05


def test_the_interval_covers_as_often_as_it_says():
    """200 pairs of runs that are alike but for chance: zero lies within about 95% of the intervals."""
    rng, within = np.random.default_rng(2), 0
    for _ in range(200):
        a, b = (runs(0.7, range(8), rng) for _ in range(2))
        found = paired.difference(a, b, LABELS, paired.accuracy, resamples=500)
        within += found.low <= 0 <= found.high
    assert within >= 184  # of a binomial of 0.95: one in a thousand falls below


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_that_differ_much_are_no_finding(seeds):
    rng, found = np.random.default_rng(4), 0
    for _ in range(200):
        ours, theirs = ({s: runs(rng.uniform(0.5, 0.8), [s], rng)[s] for s in range(seeds)} for _ in range(2))
        found += paired.difference(ours, theirs, LABELS, paired.accuracy, resamples=500).p < 0.05
    assert found <= 21  # of a binomial of 0.05: one in a thousand lies above


def test_constant_scores_correlate_with_nothing():
    labels = RNG.normal(size=40)
    found = paired.difference(
        {s: np.ones(40) for s in range(3)}, {s: labels + RNG.normal(size=40) for s in range(3)}, labels, paired.pearson
    )
    assert found.high < 0
    assert found.p < 0.05


def test_only_shared_seeds_count():
    rng = np.random.default_rng(3)
    ours, theirs = runs(0.8, (0, 1, 5), rng), runs(0.6, (1, 2, 5), rng)
    assert paired.difference(ours, theirs, LABELS, paired.accuracy).seeds == 2
    assert paired.difference(ours, {7: theirs[1]}, LABELS, paired.accuracy) is None


def test_holm_by_hand():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired.holm([]) == []
