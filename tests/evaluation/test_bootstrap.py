import numpy as np
import pytest
from scipy import stats

from bertjax.evaluation.bootstrap import intervals


def mean(outputs, labels):
    return {"mean": float(outputs.mean()), "error": float((outputs[:, 0] - labels).mean())}


def test_the_interval_of_a_mean_is_the_normal_one():
    outputs = np.random.default_rng(1).normal(size=(400, 1))
    low, high = intervals(mean, outputs, np.zeros(400), resamples=4000)["mean"]
    half = stats.norm.ppf(0.975) * outputs.std() / np.sqrt(400)
    # The percentiles' own standard error is about 0.04 of the half width.
    assert low == pytest.approx(outputs.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(outputs.mean() + half, abs=0.15 * half)


def test_outputs_and_labels_are_drawn_together():
    labels = np.arange(50.0)
    assert intervals(mean, labels[:, None] + 2, labels)["error"] == [2, 2]


def test_the_same_call_gives_the_same_interval_and_another_seed_does_not():
    outputs, labels = np.arange(9.0)[:, None] ** 2, np.zeros(9)
    assert intervals(mean, outputs, labels) == intervals(mean, outputs, labels)
    assert intervals(mean, outputs, labels) != intervals(mean, outputs, labels, seed=1)


def test_one_example_has_no_spread():
    assert intervals(mean, np.ones((1, 1)), np.zeros(1))["mean"] == [1, 1]
