"""What the cells of a study say together: a row a task, training-set size and method."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertjax.study.statistics import SCORES, PairedDifference, holm, paired_difference

Cells = Mapping[int, Mapping[str, Any]]
"""Of a method, by seed."""


Measured = Callable[[Mapping[str, Any]], float | None]
"""A number of a cell, if it is known."""


Where = Callable[[Mapping[str, Any]], str]
"""A name of what a cell shares with those that its numbers may be compared with."""


BASE = "fine-tune"
"""The method that all others are compared with, at the same tasks and training-set size."""


LONGER = "fine-tune longer"
"""Plain fine-tuning for about as long as SMART takes: where a study has it, all others are compared with it, too."""


MIN_SEEDS = 3
"""For a test: two say next to nothing of how much seeds differ."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method's score minus another's.

    Attributes:
      difference: paired by seed.
      p: of it, corrected for as many comparisons as the study makes (Holm); None with fewer than FEWEST_SEEDS.
    """

    difference: PairedDifference
    p: float | None = None

    @property
    def is_beyond_noise(self) -> bool:
        """At 5%."""
        return self.p is not None and self.p < 0.05


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one task.

    Attributes:
      tasks: trained on together, their names joined by "+".
      task: judged here.
      share: of the training examples.
      method: its name.
      metric: the task's main one.
      dev_rows: examples of dev that it is measured on.
      scores: its value on dev after the last update, by seed.
      minus: comparisons with BASE and with LONGER, by name; without those of a method with itself, of BASE with LONGER,
        and of methods that share no seed.
      metrics: means over seeds of all other numbers of dev.
      time_ratio: of an update to BASE's, of medians over the seeds run on the same machine; None where there is none.
      run_ratio: of all updates' time, those of further pre-training with them, to BASE's, likewise.
      flops_ratio: of an update to plain fine-tuning's, XLA's count; None for the last layer alone, and where there is
        no count.
      memory_ratio: of the largest step to BASE's, the median over the seeds that both have.
      warnings: of lineage, for any of the seeds.
    """

    tasks: str
    task: str
    share: float
    method: str
    metric: str
    dev_rows: int
    scores: Mapping[int, float]
    minus: Mapping[str, Comparison]
    metrics: Mapping[str, float]
    time_ratio: float | None
    run_ratio: float | None
    flops_ratio: float | None
    memory_ratio: float | None
    warnings: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.mean(self.scores.values())

    @property
    def deviation(self) -> float | None:
        """Of the scores over seeds; None for a single one."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def group(self) -> tuple[str, str, float]:
        """What it is compared within."""
        return self.tasks, self.task, self.share

    def tested(self, other: str = BASE) -> Comparison | None:
        """The comparison with another method, if it has seeds enough for a test."""
        found = self.minus.get(other)
        return None if found is None or found.p is None else found


def summarise(lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """All rows of a study, groups in the order of their first cell, BASE first within each, then by method's order.

    Args:
      lines: as of `study_results.read_lines`.
    """
    grouped: dict[tuple[str, float], dict[str, dict[int, Mapping[str, Any]]]] = {}
    for line in lines:
        group = grouped.setdefault((line["tasks"], line["share"]), {})
        group.setdefault(line["method"], {})[line["seed"]] = line
    rows = []
    for (tasks, share), methods in grouped.items():
        base = methods.get(BASE, {})
        ordered = [*([BASE] if base else []), *(name for name in methods if name != BASE)]
        for task in tasks.split("+"):
            rows += [_row(tasks, task, share, name, methods) for name in ordered]
    tested = [
        (place, other, found.difference.p)
        for place, row in enumerate(rows)
        for other, found in row.minus.items()
        if found.difference.seeds >= MIN_SEEDS
    ]
    corrected = holm([p for _, _, p in tested])
    for (place, other, _), p in zip(tested, corrected, strict=True):
        minus = rows[place].minus
        changed = {**minus, other: dataclasses.replace(minus[other], p=p)}
        rows[place] = dataclasses.replace(rows[place], minus=changed)
    return rows


def _row(tasks: str, task: str, share: float, method: str, methods: Mapping[str, Cells]) -> Row:
    cells, base = methods[method], methods.get(BASE, {})
    dev = {seed: cell["dev"][task] for seed, cell in sorted(cells.items())}
    first = next(iter(dev.values()))

    def minus(name: str) -> PairedDifference | None:
        if method in (BASE, name):
            return None
        ours, theirs = (
            {seed: cell["dev"][task]["predicted"] for seed, cell in part.items()}
            for part in (cells, methods.get(name, {}))
        )
        return paired_difference(ours, theirs, first["labels"], SCORES[first["metric"]])

    numbers = [name for name, value in first.items() if isinstance(value, float) and name not in ("score", "metric")]

    # Of the last layer alone XLA's count is not against all of an update.
    counted = [
        count
        for cell in cells.values()
        if cell["settings"].get("tune") != "head" and (count := cell["cost"]["flops_ratio"]) is not None
    ]

    def ratio(of: Measured, where: Where) -> float | None:
        ours, theirs = (_medians(part, of, where) for part in (cells, base))
        ratios = [ours[place] / theirs[place] for place in ours.keys() & theirs.keys()]
        return statistics.median(ratios) if ratios else None

    return Row(
        tasks=tasks,
        task=task,
        share=share,
        method=method,
        metric=first["metric"],
        dev_rows=len(first["labels"]),
        scores={seed: values["score"] for seed, values in dev.items()},
        minus={name: Comparison(found) for name in (BASE, LONGER) if (found := minus(name)) is not None},
        metrics={name: statistics.mean(values[name] for values in dev.values()) for name in numbers},
        time_ratio=ratio(_update_seconds, _machine),
        run_ratio=ratio(_run_seconds, _machine),
        flops_ratio=statistics.median(counted) if counted else None,
        memory_ratio=ratio(lambda cell: cell["cost"].get("peak_bytes"), _seed),
        warnings=tuple(dict.fromkeys(line for cell in cells.values() for line in cell["warnings"])),
    )


def _medians(cells: Cells, of: Measured, where: Where) -> dict[str, float]:
    """Of what was measured, by where it can be compared."""
    found: dict[str, list[float]] = {}
    for cell in cells.values():
        if value := of(cell):
            found.setdefault(where(cell), []).append(value)
    return {place: statistics.median(values) for place, values in found.items()}


def _seed(cell: Mapping[str, Any]) -> str:
    # It draws the examples, and so the longest batch, which sets a run's memory.
    return f"{cell['seed']} {cell['devices']}"


def _machine(cell: Mapping[str, Any]) -> str:
    return f"{cell['machine']} {cell['devices']}"


def _update_seconds(cell: Mapping[str, Any]) -> float | None:
    seconds: float | None = cell["timing"]["step_seconds_median"]
    return seconds


def _run_seconds(cell: Mapping[str, Any]) -> float | None:
    seconds, further = _update_seconds(cell), cell["further_seconds"]
    return None if seconds is None or further is None else cell["steps"] * seconds + further
