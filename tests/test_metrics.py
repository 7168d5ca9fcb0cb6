import math

import numpy as np
import pytest

from bertjax import metrics


def test_classification_by_hand():
    # Predictions 0, 0, 1, 1 for labels 0, 1, 1, 1 of three classes: F1 is 2/3, 4/5 and, for the absent class, 0.
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]], np.float32)) + 3
    values = metrics.classification(logits, np.array([0, 1, 1, 1]))
    assert values["accuracy"] == 0.75
    assert values["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert values["loss"] == pytest.approx(-sum(map(math.log, (0.6, 0.4, 0.7, 0.8))) / 4, rel=1e-6)


def test_extreme_logits_give_a_finite_loss():
    values = metrics.classification(np.array([[1e4, 0.0]], np.float32), np.array([1]))
    assert values == {"accuracy": 0.0, "macro_f1": 0.0, "loss": 1e4}
