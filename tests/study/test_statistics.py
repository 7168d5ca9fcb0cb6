import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bertjax.study import statistics

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300)


def runs(share, seeds, rng):
    """Predictions with about this share correct."""
    return {seed: np.where(rng.random(300) < share, LABELS, (LABELS + 1) % 3) for seed in seeds}


def matthews_correlation(predicted, labels):
    """From the four counts (Matthews, 1975)."""
    (tn, fn), (fp, tp) = ([np.sum((predicted == p) & (labels == y)) for y in (0, 1)] for p in (0, 1))
    return (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


ORACLES = {
    "accuracy": lambda predicted, labels: np.mean(predicted == labels),
    "pearson": lambda predicted, labels: np.corrcoef(predicted, labels)[0, 1],
    "matthews": matthews_correlation,
}


@pytest.mark.parametrize("score", statistics.SCORES)
def test_weights_equal_repeated_examples(score):
    if score == "pearson":
        labels = RNG.normal(size=40)
        predicted = np.stack([labels + RNG.normal(size=40), RNG.normal(size=40)])
    else:
        classes = 2 if score == "matthews" else 3
        labels, predicted = RNG.integers(0, classes, 40), RNG.integers(0, classes, (2, 40))
    counts = RNG.multinomial(40, np.full(40, 1 / 40), 5)
    found = statistics.SCORES[score](counts / 40, predicted, labels)
    for row, count in zip(found, counts, strict=True):
        picked = np.repeat(np.arange(40), count)
        for value, run in zip(row, predicted, strict=True):
            assert value == pytest.approx(ORACLES[score](run[picked], labels[picked]), abs=1e-9)


def mean_of(weights, values, labels):
    return weights @ values.T


def compared(values, resamples=500):
    seeds = range(len(values))
    none, labels = np.zeros_like(values[0]), np.zeros(len(values[0]))
    return statistics.paired_difference(dict(enumerate(values)), dict.fromkeys(seeds, none), labels, mean_of, resamples)


def test_a_real_difference_is_found_and_a_null_one_is_not():
    rng = np.random.default_rng(1)
    good, same, bad = (runs(share, range(5), rng) for share in (0.8, 0.8, 0.6))
    found = statistics.paired_difference(good, bad, LABELS, statistics.accuracy)
    expected = np.mean([np.mean(good[s] == LABELS) - np.mean(bad[s] == LABELS) for s in range(5)])
    assert found.mean == pytest.approx(expected)
    assert found.low < found.mean < found.high
    assert (found.seeds, found.low > 0.1, found.p < 1e-3) == (5, True, True)
    mirrored = statistics.paired_difference(bad, good, LABELS, statistics.accuracy)
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert mirrored.p == pytest.approx(found.p)
    none = statistics.paired_difference(good, same, LABELS, statistics.accuracy)
    assert none.low < 0 < none.high
    assert none.p > 0.05


def test_with_identical_examples_it_is_a_paired_t_test():
    values = np.random.default_rng(5).normal(0.3, 1, (6, 1)) * np.ones(50)
    found, expected = compared(values), ttest_1samp(values[:, 0], 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)


@pytest.mark.parametrize("seeds", [1, 5])
def test_with_identical_seeds_it_is_the_standard_error_of_the_examples(seeds):
    values = np.random.default_rng(6).normal(0.3, 1, 400) * np.ones((seeds, 1))
    found = compared(values, resamples=10_000)
    # The bootstrap divides by n, not n − 1; 10,000 resamples give the standard error to 0.7%.
    reach = 1.966 * values[0].std() / 20
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach), abs=0.03 * reach)
    assert found.p == pytest.approx(ttest_1samp(values[0], 0).pvalue, rel=0.2)


KINDS = pytest.mark.parametrize(
    ("of_seeds", "of_examples", "of_both"),
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.1, 1, 1)],
    ids=["seeds", "examples", "both at once", "all"],
)


@KINDS
def test_the_width_matches_the_variation_of_the_mean(of_seeds, of_examples, of_both):
    rng, widths = np.random.default_rng(7), []
    for _ in range(100):
        parts = of_seeds * rng.normal(size=(10, 1)), of_examples * rng.normal(size=(1, 100))
        found = compared(sum(parts) + of_both * rng.normal(size=(10, 100)))
        widths.append((found.high - found.low) / 2)
    deviation = (of_seeds**2 / 10 + of_examples**2 / 100 + of_both**2 / 1000) ** 0.5
    # Student's t is 2.26 for nine degrees of freedom, 1.98 for 99.
    assert 1.9 < np.mean(widths) / deviation < 2.6


@KINDS
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_false_positive_rate_is_5_percent_at_most(seeds, of_seeds, of_examples, of_both):
    rng, found = np.random.default_rng(4), 0
    for _ in range(200):
        parts = of_seeds * rng.normal(size=(seeds, 1)), of_examples * rng.normal(size=(1, 60))
        found += compared(sum(parts) + of_both * rng.normal(size=(seeds, 60))).p < 0.05
    assert found <= 21  # the 99.9% quantile of a binomial of 0.05


def test_the_interval_has_its_coverage():
    """For 200 pairs of equally good runs, about 95% of the intervals contain zero."""
    rng, within = np.random.default_rng(2), 0
    for _ in range(200):
        a, b = (runs(0.7, range(8), rng) for _ in range(2))
        found = statistics.paired_difference(a, b, LABELS, statistics.accuracy, resamples=500)
        within += found.low <= 0 <= found.high
    assert within >= 184  # the 0.1% quantile of a binomial of 0.95


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_that_vary_much_are_not_significant(seeds):
    rng, found = np.random.default_rng(4), 0
    for _ in range(200):
        ours, theirs = ({s: runs(rng.uniform(0.5, 0.8), [s], rng)[s] for s in range(seeds)} for _ in range(2))
        found += statistics.paired_difference(ours, theirs, LABELS, statistics.accuracy, resamples=500).p < 0.05
    assert found <= 21  # the 99.9% quantile of a binomial of 0.05


def test_three_seeds_that_agree_by_chance_are_not_significant():
    """At 1%, where Satterthwaite's degrees of freedom alone would find 2.7 times the nominal rate."""
    rng, found = np.random.default_rng(9), 0
    for _ in range(1500):
        values = rng.normal(size=(3, 1)) + 2.1 * rng.normal(size=(1, 40))
        found += compared(values).p < 0.01
    assert found <= 27  # the 99.9% quantile of a binomial of 0.01


def test_identical_predictions_have_no_difference():
    ours = runs(0.7, range(3), np.random.default_rng(8))
    assert statistics.paired_difference(ours, ours, LABELS, statistics.accuracy) == (3, 0.0, 0.0, 0.0, 1.0)


def test_constant_scores_have_no_correlation():
    labels = RNG.normal(size=40)
    found = statistics.paired_difference(
        {s: np.ones(40) for s in range(3)},
        {s: labels + RNG.normal(size=40) for s in range(3)},
        labels,
        statistics.pearson,
    )
    assert found.high < 0
    assert found.p < 0.05


def test_only_shared_seeds_count():
    rng = np.random.default_rng(3)
    ours, theirs = runs(0.8, (0, 1, 5), rng), runs(0.6, (1, 2, 5), rng)
    assert statistics.paired_difference(ours, theirs, LABELS, statistics.accuracy).seeds == 2
    assert statistics.paired_difference(ours, {7: theirs[1]}, LABELS, statistics.accuracy) is None


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []
