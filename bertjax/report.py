"""What a person reads of a run: the table on screen and the curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def result_table(result: Mapping[str, Any]) -> str:
    """The last and the best checkpoint's metrics on dev, a row each."""
    rows = []
    for task, dev in result["dev"].items():
        for which, step in (("final", result["steps"]), ("best", dev["best"]["step"])):
            values = {name: value for name, value in dev[which].items() if name != "step"}
            rows.append({"task": task, "checkpoint": which, "step": step} | values)
    notes = [f"{task}: labels are {data['labels']}" for task, data in result["datasets"].items()]
    return "\n".join([table(rows), *notes])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one set of columns as aligned text."""
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def plot_curves(records: Sequence[Mapping[str, Any]], main_metric: str, path: Path) -> None:
    """Draws training loss, SMART's terms and accuracy over updates, from a run's log."""

    def series(split: str, name: str) -> tuple[list[int], list[float]]:
        chosen = [record for record in records if record["split"] == split and name in record["values"]]
        return [record["step"] for record in chosen], [record["values"][name] for record in chosen]

    has_terms = any(series("train", name)[0] for name in ("smoothness", "bregman"))
    figure = Figure(figsize=(12 if has_terms else 8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, score, *terms = figure.subplots(1, 3 if has_terms else 2)
    loss.plot(*series("train", "loss"), label="train")
    loss.plot(*series("dev", "loss"), "o-", label="dev")
    loss.set(title="Cross-entropy", ylabel="nats")
    score.plot(*series("train", "accuracy"), label="train, with dropout", alpha=0.5)
    score.plot(*series("dev", main_metric), "o-", label="dev")
    score.set(title=main_metric.replace("_", " ").capitalize())
    for axes in terms:
        axes.plot(*series("train", "smoothness"), label="smoothness $R_s$")
        axes.plot(*series("train", "bregman"), label="Bregman $D$")
        axes.set(title="SMART's terms, before their weights", ylabel="nats")
    for axes in (loss, score, *terms):
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
