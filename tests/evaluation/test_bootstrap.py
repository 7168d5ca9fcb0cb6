import numpy as np
import pytest
from scipy import stats

from bertjax.evaluation.bootstrap import bootstrap_intervals


def mean(outputs, labels):
    return {"mean": float(outputs.mean()), "error": float((outputs[:, 0] - labels).mean())}


def test_the_interval_of_a_mean_is_near_the_normal_interval():
    outputs = np.random.default_rng(1).normal(size=(400, 1))
    low, high = bootstrap_intervals(mean, outputs, np.zeros(400), num_resamples=4000)["mean"]
    half = stats.norm.ppf(0.975) * outputs.std() / np.sqrt(400)
    # The percentiles' standard error is about 0.04 of the half width.
    assert low == pytest.approx(outputs.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(outputs.mean() + half, abs=0.15 * half)


def test_outputs_and_labels_are_resampled_together():
    labels = np.arange(50.0)
    assert bootstrap_intervals(mean, labels[:, None] + 2, labels)["error"] == [2, 2]


def test_the_interval_depends_only_on_the_seed():
    outputs, labels = np.arange(9.0)[:, None] ** 2, np.zeros(9)
    assert bootstrap_intervals(mean, outputs, labels) == bootstrap_intervals(mean, outputs, labels)
    assert bootstrap_intervals(mean, outputs, labels) != bootstrap_intervals(mean, outputs, labels, seed=1)


def test_the_interval_of_one_example_has_no_width():
    assert bootstrap_intervals(mean, np.ones((1, 1)), np.zeros(1))["mean"] == [1, 1]
