"""Metrics over a whole split, computed on the host from the outputs of all its examples.

Each function takes logits [N, C] and labels [N]. Values lie in [0, 1] or [−1, 1], except losses, "mse" and "r2". The
correlation with a constant is undefined and is reported as 0. SciPy is imported on first use, because a training step
imports the tasks but computes no metrics.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Metrics = dict[str, float]


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """Computes "accuracy", "macro_f1" and "loss" in nats.

    "macro_f1" is the mean of the classes' F1; a class that is neither predicted nor among the labels counts as 0.
    """
    f1 = _f1(logits.argmax(axis=-1), labels, logits.shape[-1])
    return _accuracy(logits, labels) | {"macro_f1": float(f1.mean()), "loss": _cross_entropy(logits, labels)}


def binary_f1_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """Computes "accuracy", "f1" of class 1 and "loss" in nats, as GLUE does for pairs (Wang et al., ICLR 2019)."""
    f1 = _f1(logits.argmax(axis=-1), labels, 2)
    return _accuracy(logits, labels) | {"f1": float(f1[1]), "loss": _cross_entropy(logits, labels)}


def matthews_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """Computes "matthews" (the correlation of two classes, Matthews 1975), "accuracy" and "loss" in nats, for CoLA."""
    import scipy.stats

    correlation = _correlation(scipy.stats.pearsonr, logits.argmax(axis=-1), labels)
    return {"matthews": correlation} | _accuracy(logits, labels) | {"loss": _cross_entropy(logits, labels)}


def regression_metrics(outputs: np.ndarray, labels: np.ndarray, std: float = 1.0) -> Metrics:
    """Computes the metrics of scores.

    Args:
      outputs: [N, 1], in the labels' units.
      labels: [N].
      std: standard deviation of the training labels.

    Returns:
      "pearson" and "spearman"; "r2", the coefficient of determination 1 − mse / variance, 0 where the labels are
      constant; "mse", in squared units of the labels; "loss", the mean squared error of standardised scores.
    """
    import scipy.stats

    scores, labels = outputs[:, 0].astype(np.float64), labels.astype(np.float64)
    mse, variance = float(((scores - labels) ** 2).mean()), float(labels.var())
    return {
        "pearson": _correlation(scipy.stats.pearsonr, scores, labels),
        "spearman": _correlation(scipy.stats.spearmanr, scores, labels),
        "r2": 1 - mse / variance if variance > 0 else 0.0,
        "mse": mse,
        "loss": mse / std**2,
    }


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    return {"accuracy": float((logits.argmax(axis=-1) == labels).mean())}


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    from scipy.special import log_softmax

    log_probabilities = log_softmax(logits.astype(np.float64), axis=-1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _f1(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """F1 of each class, [num_classes]."""
    classes = np.arange(num_classes)
    is_predicted, is_label = predicted[:, None] == classes, labels[:, None] == classes
    true_positives = (is_predicted & is_label).sum(axis=0)
    # F1 = 2 TP / (2 TP + FP + FN); the denominator is the number of predictions plus the number of labels.
    return 2 * true_positives / np.maximum(is_predicted.sum(axis=0) + is_label.sum(axis=0), 1)


def _correlation(statistic: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(statistic(x, y).statistic)
