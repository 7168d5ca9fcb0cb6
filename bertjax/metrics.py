"""Metrics over a whole split, on the host, from the gathered outputs of every example."""

import numpy as np


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and mean cross-entropy.

    Args:
      logits: float [N, C].
      labels: int [N], in [0, C).

    Returns:
      "accuracy" and "macro_f1" (the mean of the classes' F1 scores, 0 for a class that is neither predicted nor there)
      in [0, 1], and "loss" in nats.
    """
    logits = logits.astype(np.float64)
    predicted = logits.argmax(axis=-1)
    classes = np.arange(logits.shape[-1])
    is_predicted, is_label = predicted[:, None] == classes, labels[:, None] == classes
    hits = (is_predicted & is_label).sum(axis=0)
    # F1 = 2 TP / (2 TP + FP + FN), whose denominator counts predictions and labels.
    f1 = 2 * hits / np.maximum(is_predicted.sum(axis=0) + is_label.sum(axis=0), 1)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1.mean()),
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    }
