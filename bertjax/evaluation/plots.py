"""What a person sees of one task's predictions: a confusion matrix, or a scatter plot of scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_COUNTED = 20
"""Classes up to which cells have room for their numbers."""


def confusion_matrix(logits: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Which classes are taken for which: counts, coloured by their share of the row, the true class.

    Args:
      logits: [N, C].
      labels: [N], classes.
      names: of the C classes.
      title: of the plot.
    """
    size = len(names)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=-1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a class without examples is a row of 0
    side = min(3.2 + 0.75 * size, 16)
    figure = Figure(figsize=(side + 1.7, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(size)
    axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [f"{name} ({count})" for name, count in zip(names, counts.sum(axis=1), strict=True)])
    axes.set(title=title, xlabel="predicted", ylabel="label (examples)")
    if size <= MOST_COUNTED:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{counts[row, column]}\n{share:.0%}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else "black")
    figure.colorbar(image, label="share of the label's examples", shrink=0.8, format=lambda x, _: f"{x:.0%}")
    return figure


def scatter(scores: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Predicted scores against labels, with the line on which they agree.

    Args:
      scores: [N].
      labels: [N].
      title: of the plot.
    """
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    both = np.concatenate([scores, labels])
    margin = 0.04 * float(np.ptp(both)) or 1.0
    limits = float(both.min()) - margin, float(both.max()) + margin
    axes.plot(limits, limits, color="0.2", linewidth=1, linestyle="--", label="y = x", zorder=3)
    # Thousands of points would hide one another.
    alpha = float(np.clip(30 / np.sqrt(len(scores)) / 2, 0.1, 0.8))
    axes.scatter(labels, scores, s=14, alpha=alpha, linewidths=0, zorder=2)
    axes.set(title=title, xlabel="label", ylabel="predicted", xlim=limits, ylim=limits, aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure
