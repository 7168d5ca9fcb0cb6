"""What a person reads of a run: the table on screen and the curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def result_table(result: Mapping[str, Any]) -> str:
    """The last and the best checkpoint's metrics on dev, a row each, and what is to be known of them."""
    rows = []
    for task, dev in result["dev"].items():
        steps = {"before": 0, "final": result["steps"], "best": dev["best"]["step"]}
        for which, step in steps.items():
            if which not in dev:  # "before" is of further pre-training alone
                continue
            values = {name: value for name, value in dev[which].items() if name != "step"}
            rows.append({"task": task, "checkpoint": which, "step": step} | values)
    notes = [f"{task}: labels are {data['labels']}" for task, data in result["datasets"].items()]
    notes += [f"warning: {line}" for line in result["warnings"]]
    return "\n".join([table(rows), *notes])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text; a row that lacks a column leaves it empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def curves(records: Sequence[Mapping[str, Any]], main_metrics: Mapping[str, str]) -> Figure:
    """The training loss, SMART's terms and each main metric over updates, from a run's log."""
    several = len(main_metrics) > 1

    def series(split: str, name: str) -> tuple[list[int], list[float]]:
        chosen = [record for record in records if record["split"] == split and name in record["values"]]
        return [record["step"] for record in chosen], [record["values"][name] for record in chosen]

    def named(name: str) -> list[tuple[str, str]]:
        """A metric's names in the log, each with its task as label."""
        return [(f"{task}/{name}", f"{task}, ") for task in main_metrics] if several else [(name, "")]

    terms = {"smoothness": "$R_s$", "bregman": "$D$"}
    has_terms = any(series("train", key)[0] for name in terms for key, _ in named(name))
    figure = Figure(figsize=(12 if has_terms else 8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, score, *rest = figure.subplots(1, 3 if has_terms else 2)
    for axes, name in ((loss, "loss"), (score, "accuracy")):
        for key, label in named(name):
            if series("train", key)[0]:
                axes.plot(*series("train", key), label=f"{label}train, with dropout", alpha=0.5)
    for key, label in named("loss"):
        if series("dev", key)[0]:
            loss.plot(*series("dev", key), "o-", label=f"{label}dev")
    for task, metric in main_metrics.items():
        label = f"{task}, " if several else ""
        score.plot(*series("dev", f"{task}/{metric}" if several else metric), "o-", label=f"{label}dev {metric}")
    loss.set(title="Loss: nats, or standardised squared error")
    score.set(title="Main metrics" if several else next(iter(main_metrics.values())).replace("_", " ").capitalize())
    for axes in rest:
        for name, symbol in terms.items():
            for key, label in named(name):
                if series("train", key)[0]:
                    axes.plot(*series("train", key), label=f"{label}{symbol}")
        axes.set(title="SMART's terms, before their weights")
    for axes in (loss, score, *rest):
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if axes.lines:  # of a run whose updates were all left out, there may be none
            axes.legend(fontsize="small")
    return figure
