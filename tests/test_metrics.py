"""Metrics by hand."""

import math

import numpy as np
import pytest

from bertjax import metrics


def test_classification_by_hand():
    # Predictions 0, 0, 1, 1 for labels 0, 1, 1, 1 of three classes: F1 is 2/3, 4/5 and, for the absent class, 0.
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]], np.float32)) + 3
    values = metrics.classification_metrics(logits, np.array([0, 1, 1, 1]))
    assert values["accuracy"] == 0.75
    assert values["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert values["loss"] == pytest.approx(-sum(map(math.log, (0.6, 0.4, 0.7, 0.8))) / 4, rel=1e-6)


def test_extreme_logits_give_a_finite_loss():
    values = metrics.classification_metrics(np.array([[1e4, 0.0]], np.float32), np.array([1]))
    assert values == {"accuracy": 0.0, "macro_f1": 0.0, "loss": 1e4}


def test_binary_f1_by_hand():
    # Predictions 1, 1, 0, 1 for labels 1, 0, 1, 1: two hits of three predictions and three labels.
    logits = np.log(np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]))
    values = metrics.binary_f1_metrics(logits, np.array([1, 0, 1, 1]))
    assert values["accuracy"] == 0.5
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["loss"] == pytest.approx(-sum(map(math.log, (0.8, 0.4, 0.1, 0.7))) / 4)


def test_matthews_by_hand():
    # TP 2, TN 1, FP 1, FN 1.
    logits = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [1, 0]], np.float64)
    values = metrics.matthews_metrics(logits, np.array([1, 1, 0, 0, 1]))
    assert values["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert values["accuracy"] == pytest.approx(0.6)


def test_regression_by_hand():
    scores, labels = np.array([[1.0], [2.0], [9.0]]), np.array([0.0, 4.0, 5.0])
    values = metrics.regression_metrics(scores, labels)
    # Deviations (−3, −2, 5) and (−3, 1, 2); the ranks agree.
    assert values["pearson"] == pytest.approx((9 - 2 + 10) / math.sqrt(38 * 14))
    assert values["spearman"] == pytest.approx(1)
    assert values["mse"] == values["loss"] == pytest.approx((1 + 4 + 16) / 3)
    assert values["r2"] == pytest.approx(1 - (1 + 4 + 16) / 14)
    assert metrics.regression_metrics(scores, labels, std=2.0) == values | {"loss": values["mse"] / 4}
    assert metrics.regression_metrics(np.array([[1.0], [3.0], [2.0]]), labels)["spearman"] == pytest.approx(0.5)


def test_correlations_with_a_constant_are_0():
    constant, labels = np.ones((3, 1)), np.array([0.0, 1.0, 2.0])
    assert metrics.regression_metrics(constant, labels)["pearson"] == 0
    assert metrics.regression_metrics(labels[:, None], np.ones(3))["spearman"] == 0
    assert metrics.regression_metrics(labels[:, None], np.ones(3))["r2"] == 0
    assert metrics.matthews_metrics(np.array([[0.0, 1.0]] * 3), np.array([0, 1, 1]))["matthews"] == 0
