"""The results of a study so far: a file of one JSON line a finished cell."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown
from bertjax.files.atomic import write_text
from bertjax.runs.workdir import config_differences
from bertjax.study.plan import Trial, TrialKey, trial_name

CELLS = "cells.jsonl"


def read_results(root: Path, cells: Sequence[Trial]) -> list[dict[str, Any]]:
    """The lines of the cells of a plan that are finished, in the file's order.

    Raises:
      UserError: a line is no cell's, or a cell has two; a cell was run with other settings than it has in the plan,
        with settings that meant something else then, or on other data than others.
    """
    planned = {cell.key: cell for cell in cells}
    lines, data, places = [], dict[str, str](), dict[TrialKey, int]()
    for number, text in enumerate(_text(root).split("\n"), 1):
        if not text:
            continue
        try:
            line = json.loads(text)
            cell, settings, fingerprints = planned.get(key_of(line)), dict(line["settings"]), dict(line["fingerprints"])
            resolved = dict(line.get("resolved", {}))  # which an earlier version did not write
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{root / CELLS}:{number}: expected the results of a cell as JSON, found {shown(text)}; remove the "
                "line, and the same command runs that cell again"
            ) from None
        if cell is None:
            continue
        if (first := places.setdefault(cell.key, number)) != number:
            raise UserError(
                f"{root / CELLS}:{number}: expected one line a cell, found {trial_name(cell)} in line {first} already; "
                "remove one of the two"
            )
        for key, *values in config_differences(settings, cell.settings):
            was, planned_now = ("the default" if value is None else shown(value) for value in values)
            raise UserError(
                f"{root / CELLS}: {trial_name(cell)} was run with other settings than the recipe's: {key} was {was}, "
                f"is {planned_now}; give another --workdir, or the method another name"
            )
        changed = config_differences(resolved, cell.resolved)
        if told := "; ".join(f"{key} was {_shown(was)}, is {_shown(is_now)}" for key, was, is_now in changed):
            raise UserError(
                f"{root / CELLS}:{number}: {trial_name(cell)} was run by a version of bertjax in which its settings "
                f"meant something else: {told}; remove the line, or spell the old values out under another method"
            )
        for task, fingerprint in fingerprints.items():
            if data.setdefault(task, fingerprint) != fingerprint:
                raise UserError(
                    f"{root / CELLS}:{number}: {trial_name(cell)} was run on other data of {task} than cells before "
                    "it; give another --workdir, or remove the lines of one of both"
                )
        lines.append(line)
    return lines


def _shown(value: Any) -> str:
    return "not recorded" if value is None else shown(value)


def add_result(root: Path, line: Mapping[str, Any]) -> None:
    """Adds a finished cell, whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    before = _text(root)
    if before and not before.endswith("\n"):  # an editor's doing
        before += "\n"
    write_text(root / CELLS, before + json.dumps(line, ensure_ascii=False) + "\n")


def key_of(line: Mapping[str, Any]) -> TrialKey:
    """The key of the cell that a line is of."""
    return TrialKey(*(line[name] for name in TrialKey._fields))


def _text(root: Path) -> str:
    path = root / CELLS
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected UTF-8, found something else; restore it, or use another --workdir") from None
