import numpy as np
import pytest

from bertjax.evaluation.calibration import expected_calibration_error


def logits_of(confidences):
    return np.log(np.stack([confidences, 1 - np.asarray(confidences)], axis=1))


def test_two_bins_computed_by_hand():
    # One of 0.62 and 0.64, in (9/15, 10/15], is right: |1/2 − 0.63|. 0.9, in (13/15, 14/15], is right: |1 − 0.9|.
    logits = logits_of([0.62, 0.64, 0.9])
    value = expected_calibration_error(logits, np.array([0, 1, 0]))
    assert value == pytest.approx((2 * 0.13 + 1 * 0.1) / 3)


def test_a_bin_includes_its_upper_bound():
    # With two bins, (0, 0.5] and (0.5, 1], only a confidence of 0.5 is in the first.
    logits = np.array([[0.0, 0.0], [np.log(3.0), 0.0]])
    assert expected_calibration_error(logits, np.array([0, 1]), num_bins=2) == pytest.approx((0.5 + 0.75) / 2)


def test_gaps_cancel_within_a_bin_but_not_between_bins():
    # A confidence of 0.75 that is right three times in four is calibrated.
    assert expected_calibration_error(logits_of([0.75] * 4), np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(logits_of([0.55, 0.95]), np.array([0, 1])) == pytest.approx((0.45 + 0.95) / 2)


def test_certain_predictions_are_calibrated_only_if_right():
    certain = np.array([[1e4, 0.0], [0.0, 1e4]])
    assert expected_calibration_error(certain, np.array([0, 1])) == 0
    assert expected_calibration_error(certain, np.array([1, 0])) == 1
