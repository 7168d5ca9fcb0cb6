"""Metrics over a whole split, on the host, from the gathered outputs of every example.

Each takes logits [N, C] and labels [N]; values lie in [0, 1] or [−1, 1] but for losses, "mse" and "r2". A correlation
with a constant is undefined, and reported as 0. SciPy is imported on first use: a training step needs the tasks, not
their metrics.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Metrics = dict[str, float]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 of the logits' shape [..., C]."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """ "accuracy", "macro_f1" (the mean of the classes' F1, 0 for one neither predicted nor there), "loss" in nats."""
    f1 = _f1(logits.argmax(axis=-1), labels, logits.shape[-1])
    return _accuracy(logits, labels) | {"macro_f1": float(f1.mean()), "loss": _cross_entropy(logits, labels)}


def binary_f1_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """ "accuracy", "f1" of class 1, "loss" in nats; for paraphrases, as GLUE does (Wang et al., ICLR 2019)."""
    f1 = _f1(logits.argmax(axis=-1), labels, 2)
    return _accuracy(logits, labels) | {"f1": float(f1[1]), "loss": _cross_entropy(logits, labels)}


def matthews_metrics(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """ "matthews" (the correlation of two classes, Matthews 1975), "accuracy", "loss" in nats; for CoLA."""
    import scipy.stats

    correlation = _correlation(scipy.stats.pearsonr, logits.argmax(axis=-1), labels)
    return {"matthews": correlation} | _accuracy(logits, labels) | {"loss": _cross_entropy(logits, labels)}


def regression_metrics(outputs: np.ndarray, labels: np.ndarray, std: float = 1.0) -> Metrics:
    """Metrics of scores [N, 1].

    "pearson" and "spearman"; "r2", the coefficient of determination 1 − mse / variance, 0 where the labels are
    constant; "mse", in squared units of the labels; "loss", the mean squared error of standardised scores.

    Args:
      outputs: [N, 1], in the labels' units.
      labels: [N].
      std: standard deviation of the training labels.
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
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def _f1(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    classes = np.arange(num_classes)
    is_predicted, is_label = predicted[:, None] == classes, labels[:, None] == classes
    hits = (is_predicted & is_label).sum(axis=0)
    # F1 = 2 TP / (2 TP + FP + FN), whose denominator counts predictions and labels.
    return 2 * hits / np.maximum(is_predicted.sum(axis=0) + is_label.sum(axis=0), 1)


def _correlation(statistic: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(statistic(x, y).statistic)
