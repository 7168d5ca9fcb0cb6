"""Runs a benchmark's rows within a time limit: starts only rows that fit, and saves the results after each.

Every row is listed exactly once in the results file: with its measurements, under "failed", or under "left_out". It is
under "left_out" until it has ended, so the file is complete and valid JSON even if the process is killed.
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
"""A row starts only if this many times its predicted time is left: compilation varies and cannot be interrupted."""
TEARDOWN_SECONDS = 3.0
"""Reserved for the process to end: a GPU's driver takes a second or two to free its memory."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      name: unique name of the row.
      section: name of the list in the results file that gets its entry.
      kind: predictions for rows of the same kind are expected to be wrong by the same factor.
      predict: returns the expected seconds on a typical accelerator, compilation included.
      measure: returns the measurements; an exception is recorded as a failure.
      about: further fields of the entry.
      unavailable: why the row cannot run here; empty if it can.
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
      path: the file.
      header: its first fields.
      summarize: returns further fields, derived from the rows at each write.
      sections: entries of the finished rows, by section.
      failed: why a row failed, by its name.
      left_out: why a row has no entry, by its name.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        """Takes the path of the file, and creates its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.header = path, dict(header)
        self.summarize: Callable[[], Mapping[str, Any]] = dict
        self.sections: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def write(self) -> None:
        """Replaces the file atomically."""
        listed = {
            name: [{"row": row, "reason": why} for row, why in reasons.items()]
            for name, reasons in (("failed", self.failed), ("left_out", self.left_out))
        }
        report = {**self.header, **self.summarize(), **self.sections, **listed}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(temporary, self.path)


class _Estimates:
    """Estimates a row's seconds from its prediction, corrected by earlier rows of the same kind."""

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
    """Measures rows in order; writes the results and prints a line after each.

    Args:
      rows: to measure.
      results: the results to fill in.
      deadline: in `time.monotonic` seconds; a row starts only if it is expected to end earlier.
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
            predicted = row.predict()  # before the row runs, which may change the prediction
            said = _measure(row, results)
            if row.name not in results.failed:  # a failed row may have taken no time
                estimates.add(row, predicted, time.monotonic() - start)
            gc.collect()  # frees the device's memory before the next row
        results.write()
        print(f"{time.monotonic() - start:6.1f} s  {row.name}: {said}", flush=True)


def _measure(row: Row, results: Results) -> str:
    """Runs one row, records its measurements or failure, and returns them as one line."""
    start = time.monotonic()
    try:
        measurements = row.measure()
    except Exception as error:  # out of memory or unsupported: recorded, and the other rows still run
        results.failed[row.name] = reason(error)
        line = f"failed: {results.failed[row.name]}"
    else:
        entry = {"row": row.name, **row.about, **measurements, "seconds": round(time.monotonic() - start, 1)}
        results.sections.setdefault(row.section, []).append(entry)
        line = ", ".join(f"{name} {value}" for name, value in measurements.items())
    del results.left_out[row.name]
    return line


def end_process_at(moment: float) -> threading.Timer:
    """Ends the process with status 0 at a `time.monotonic` moment, whatever it is doing.

    Cancel the returned timer when the work is done.
    """

    def end() -> None:
        # Not `print`: the main thread may hold its lock.
        os.write(1, b"time is up: the row in progress is left out, the results file has all rows before it\n")
        os._exit(0)

    seconds = max(0.0, moment - time.monotonic())
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    # A library that holds the GIL blocks the timer, but not faulthandler's thread. The status is then 1.
    faulthandler.dump_traceback_later(seconds + TEARDOWN_SECONDS / 2, exit=True)
    return timer
