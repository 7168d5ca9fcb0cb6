"""The results of a study so far: a file with one JSON line for each finished trial."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown
from bertjax.files.atomic import write_text
from bertjax.runs.workdir import config_differences
from bertjax.study.plan import Trial, TrialKey

RESULTS_FILE = "cells.jsonl"  # earlier studies have it: the name stays
TrialLine = Mapping[str, Any]
"""The results of one trial; `bertjax.study.trial.run_trial` lists the keys."""


def read_results(root: Path, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Returns the lines of a plan's finished trials, in the file's order.

    Lines of trials that are not in the plan are left out.

    Raises:
      UserError: a line is not a trial's results, a trial appears twice, its settings differ from the plan's or had
        another meaning when it was run, or trials of one task were run on different data.
    """
    planned = {trial.key: trial for trial in trials}
    lines, data, line_numbers = [], dict[str, str](), dict[TrialKey, int]()
    for number, text in enumerate(_text(root).split("\n"), 1):
        if not text:
            continue
        try:
            line = json.loads(text)
            trial, settings = planned.get(trial_key(line)), dict(line["settings"])
            fingerprints = dict(line["fingerprints"])
            resolved = dict(line.get("resolved", {}))  # missing in lines of early versions
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{root / RESULTS_FILE}:{number}: expected a trial's results as JSON, found {shown(text)}; remove the "
                "line, and the same command runs that trial again"
            ) from None
        if trial is None:
            continue
        if (first := line_numbers.setdefault(trial.key, number)) != number:
            raise UserError(
                f"{root / RESULTS_FILE}:{number}: expected one line for each trial, found {trial.name} in line {first} "
                "too; remove one of the two"
            )
        for key, *values in config_differences(settings, trial.settings):
            before, now = ("the default" if value is None else shown(value) for value in values)
            raise UserError(
                f"{root / RESULTS_FILE}: {trial.name} was run with other settings than the recipe's: {key} was "
                f"{before}, is {now}; use another --workdir, or give the method another name"
            )
        differences = "; ".join(
            f"{key} was {_shown(before)}, is {_shown(now)}"
            for key, before, now in config_differences(resolved, trial.resolved)
        )
        if differences:
            raise UserError(
                f"{root / RESULTS_FILE}:{number}: {trial.name} was run by a version of bertjax in which its settings "
                f"had another meaning: {differences}; remove the line, or set the old values in another method"
            )
        for task, fingerprint in fingerprints.items():
            if data.setdefault(task, fingerprint) != fingerprint:
                raise UserError(
                    f"{root / RESULTS_FILE}:{number}: {trial.name} was run on other data of {task} than the trials "
                    "above it; use another --workdir, or remove one or the other"
                )
        lines.append(line)
    return lines


def _shown(value: Any) -> str:
    return "not recorded" if value is None else shown(value)


def add_result(root: Path, line: TrialLine) -> None:
    """Appends a finished trial, atomically."""
    root.mkdir(parents=True, exist_ok=True)
    text = _text(root)
    if text and not text.endswith("\n"):  # someone edited the file
        text += "\n"
    write_text(root / RESULTS_FILE, text + json.dumps(line, ensure_ascii=False) + "\n")


def trial_key(line: TrialLine) -> TrialKey:
    """The key of a line's trial."""
    return TrialKey(*(line[name] for name in TrialKey._fields))


def _text(root: Path) -> str:
    path = root / RESULTS_FILE
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected UTF-8, found other bytes; restore it, or use another --workdir") from None
