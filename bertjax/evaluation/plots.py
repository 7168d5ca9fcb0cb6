"""Plots: a confusion matrix, predicted scores against labels, and training curves."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertjax.files.atomic import write_bytes

MAX_ANNOTATED_CLASSES = 20
"""With more classes, the cells of a confusion matrix have no room for numbers."""


def confusion_matrix(logits: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Counts of predicted classes per true class, coloured by their share of the true class (the row).

    Args:
      logits: [N, C].
      labels: class indices [N].
      names: names of the C classes.
      title: title of the plot.
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
    if size <= MAX_ANNOTATED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{counts[row, column]}\n{share:.0%}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else "black")
    figure.colorbar(image, label="share of the label's examples", shrink=0.8, format=lambda x, _: f"{x:.0%}")
    return figure


def scatter(scores: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Predicted scores against labels, with the line on which they are equal.

    Args:
      scores: [N].
      labels: [N].
      title: title of the plot.
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


def training_curves(records: Sequence[Mapping[str, Any]], main_metrics: Mapping[str, str]) -> Figure:
    """Loss, SMART's terms and main metrics over updates.

    Args:
      records: rows of metrics.jsonl.
      main_metrics: name of the main metric by task.
    """
    is_multitask = len(main_metrics) > 1

    def series(split: str, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric."""
        chosen = [record for record in records if record["split"] == split and name in record["values"]]
        return [record["step"] for record in chosen], [record["values"][name] for record in chosen]

    def per_task(name: str) -> list[tuple[str, str]]:
        """A metric's keys in the log, each with a prefix for its label: the task, if there are several."""
        return [(f"{task}/{name}", f"{task}, ") for task in main_metrics] if is_multitask else [(name, "")]

    terms = {"smoothness": "$R_s$", "bregman": "$D$"}
    has_terms = any(series("train", key)[0] for name in terms for key, _ in per_task(name))
    figure = Figure(figsize=(12 if has_terms else 8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, score, *rest = figure.subplots(1, 3 if has_terms else 2)
    for axes, name in ((loss, "loss"), (score, "accuracy")):
        for key, label in per_task(name):
            if series("train", key)[0]:
                axes.plot(*series("train", key), label=f"{label}train, with dropout", alpha=0.5)
    for key, label in per_task("loss"):
        if series("dev", key)[0]:
            loss.plot(*series("dev", key), "o-", label=f"{label}dev")
    for task, metric in main_metrics.items():
        label = f"{task}, " if is_multitask else ""
        score.plot(*series("dev", f"{task}/{metric}" if is_multitask else metric), "o-", label=f"{label}dev {metric}")
    loss.set(title="Loss: nats, or standardised squared error")
    score_title = "Main metrics" if is_multitask else next(iter(main_metrics.values())).replace("_", " ").capitalize()
    score.set(title=score_title)
    for axes in rest:
        for name, symbol in terms.items():
            for key, label in per_task(name):
                if series("train", key)[0]:
                    axes.plot(*series("train", key), label=f"{label}{symbol}")
        axes.set(title="SMART's terms, before their weights")
    for axes in (loss, score, *rest):
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if axes.lines:  # there are none if every update was skipped
            axes.legend(fontsize="small")
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a PNG atomically."""
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    write_bytes(path, png.getvalue())
