"""Text tables of results."""

from collections.abc import Mapping, Sequence
from typing import Any


def result_table(result: Mapping[str, Any]) -> str:
    """The dev metrics of each task's checkpoints, one row each, then the kind of labels and the warnings."""
    rows = []
    for task, dev in result["dev"].items():
        steps = {"before": 0, "final": result["steps"], "best": dev["best"]["step"]}
        for which, step in steps.items():
            if which not in dev:  # only further pre-training has "before"
                continue
            values = {name: value for name, value in dev[which].items() if name != "step"}
            rows.append({"task": task, "checkpoint": which, "step": step} | values)
    notes = [f"{task}: labels are {data['labels']}" for task, data in result["datasets"].items()]
    notes += [f"warning: {line}" for line in result["warnings"]]
    return "\n".join([format_rows(rows), *notes])


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an aligned text table; missing cells stay empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
