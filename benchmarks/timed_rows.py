"""Rows of a benchmark that ends by itself: no row starts that does not fit, and results are on disk after each.

Every row is listed once in the results file: with what it found, under "failed", or under "left_out". It is under
"left_out" until it has ended, so the file is complete and valid JSON whenever the process is killed.
"""

import dataclasses
import faulthandler
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import reason

MARGIN = 1.5
"""A row must fit this many times over: compilation cannot be interrupted, and its time varies."""
TEARDOWN_SECONDS = 3.0
"""For the process to end: a GPU's driver takes a second or two to free its memory."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      name: of the row, unlike all others.
      section: the list in the results file that its entry is added to.
      kind: rows of one kind are expected to miss their prediction by the same factor.
      predict: seconds that it takes on a typical accelerator, compilation included.
      measure: returns what it found; what it raises is recorded.
      about: what the entry says besides.
      unavailable: why it cannot run here; empty if it can.
    """

    name: str
    section: str
    kind: str
    predict: Callable[[], float]
    measure: Callable[[], Mapping[str, Any]]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unavailable: str = ""


class Results:
    """The results file.

    Attributes:
      path: of the file.
      header: what it begins with.
      summarize: derives more from the rows at each write.
      sections: entries of the finished rows, by section.
      failed: why a row failed, by its name.
      left_out: why a row has no entry, by its name.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        """Takes the file to write; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.header = path, dict(header)
        self.summarize: Callable[[], Mapping[str, Any]] = dict
        self.sections: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def write(self) -> None:
        """Replaces the file in one step."""
        listed = {
            name: [{"row": row, "reason": why} for row, why in reasons.items()]
            for name, reasons in (("failed", self.failed), ("left_out", self.left_out))
        }
        report = {**self.header, **self.summarize(), **self.sections, **listed}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(temporary, self.path)


class _Estimates:
    """Seconds a row will take, from its prediction and from how far off those of its kind were so far."""

    def __init__(self) -> None:
        self._predicted: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def seconds(self, row: Row) -> float:
        ratio = self._taken[row.kind] / self._predicted[row.kind] if row.kind in self._taken else 1.0
        return MARGIN * ratio * row.predict()

    def add(self, row: Row, predicted: float, seconds: float) -> None:
        for total, new in ((self._predicted, predicted), (self._taken, seconds)):
            total[row.kind] = total.get(row.kind, 0.0) + new


def run_rows(rows: Sequence[Row], results: Results, deadline: float) -> None:
    """Measures rows in their order, writing and printing after each.

    Args:
      rows: to measure.
      results: filled in.
      deadline: on `time.monotonic`'s clock; a row starts only if it is expected to end before it.
    """
    results.left_out = {row.name: "not reached" for row in rows}
    results.write()
    estimates = _Estimates()
    for row in rows:
        start = time.monotonic()
        needed, left = estimates.seconds(row), deadline - start
        late = f"needs about {needed:.0f} s, {max(0, left):.0f} s are left" if needed > left else ""
        if why := row.unavailable or late:
            results.left_out[row.name] = why
            said = f"left out: {why}"
        else:
            results.left_out[row.name] = "started and did not end: the process was stopped"
            results.write()
            predicted = row.predict()  # now, as the row itself may change what is known
            said = _measure(row, results)
            if row.name not in results.failed:  # which may have cost nothing
                estimates.add(row, predicted, time.monotonic() - start)
            gc.collect()  # frees the device's memory before the next row
        results.write()
        print(f"{time.monotonic() - start:6.1f} s  {row.name}: {said}", flush=True)


def _measure(row: Row, results: Results) -> str:
    """Runs one row and files what it found; returns that as a line."""
    start = time.monotonic()
    try:
        found = row.measure()
    except Exception as error:  # out of memory, unsupported here: a finding, and no reason to lose the other rows
        results.failed[row.name] = reason(error)
        line = f"failed: {results.failed[row.name]}"
    else:
        entry = {"row": row.name, **row.about, **found, "seconds": round(time.monotonic() - start, 1)}
        results.sections.setdefault(row.section, []).append(entry)
        line = ", ".join(f"{name} {value}" for name, value in found.items())
    del results.left_out[row.name]
    return line


def end_process_at(moment: float) -> threading.Timer:
    """Ends the process with status 0 at a moment of `time.monotonic`, whatever it is doing.

    Cancel what is returned once all is done.
    """

    def end() -> None:
        # Not `print`, whose lock the main thread may hold.
        os.write(1, b"time is up: the row in progress is left out, the results file has all rows before it\n")
        os._exit(0)

    seconds = max(0.0, moment - time.monotonic())
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    # A library that keeps Python's lock stops the timer too, but not this thread; the status is then 1.
    faulthandler.dump_traceback_later(seconds + TEARDOWN_SECONDS / 2, exit=True)
    return timer
