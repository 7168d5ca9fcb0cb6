"""Summarises a study's trials: one row for each task, training-set size and method."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from bertjax.study.results import TrialLine
from bertjax.study.statistics import SCORES, PairedDifference, holm, paired_difference

LinesBySeed = Mapping[int, TrialLine]
"""One method's trials on the same tasks and training-set size."""
BASE = "fine-tune"
"""The method that all others are compared with, on the same tasks and training-set size."""
LONGER = "fine-tune longer"
"""Plain fine-tuning for about as long as SMART takes. If a study has it, all others are compared with it too."""
MIN_SEEDS = 3
"""Shared seeds that a test needs: two say next to nothing about the variation over seeds."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method's score minus another's.

    Attributes:
      difference: the difference, paired by seed.
      p: its p-value, corrected for all of the study's comparisons (Holm); None with fewer than MIN_SEEDS.
    """

    difference: PairedDifference
    p: float | None = None

    @property
    def is_significant(self) -> bool:
        """At 5%, after the correction."""
        return self.p is not None and self.p < 0.05


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One method on one task.

    Attributes:
      tasks: names of the tasks trained on together, joined by "+".
      task: the task evaluated here.
      share: share of the training examples.
      method: the method's name.
      metric: the task's main metric.
      dev_rows: number of dev examples.
      scores: the metric on dev after the last update, by seed.
      minus: comparisons by the other method's name, BASE or LONGER. A method is not compared with itself, nor BASE with
        LONGER, nor methods without a shared seed.
      metrics: means over seeds of all other metrics on dev.
      time_ratio: time of an update relative to BASE's: the median over machines of the ratio of medians over seeds.
        None if no machine ran both.
      run_ratio: the same for the time of all updates, including those of further pre-training.
      flops_ratio: operations of an update relative to plain fine-tuning's, counted by XLA. None if not counted, or if
        only the last layer was trained.
      memory_ratio: peak memory of a step relative to BASE's, the median over shared seeds.
      warnings: about the data or the checkpoint, from any seed.
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
        """Mean score over seeds."""
        return statistics.mean(self.scores.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the score over seeds; None for a single seed."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def group(self) -> tuple[str, str, float]:
        """Tasks, task and share: rows of one group are compared."""
        return self.tasks, self.task, self.share

    def tested(self, other: str = BASE) -> Comparison | None:
        """The comparison with another method; None unless it has enough seeds for a test."""
        comparison = self.minus.get(other)
        return None if comparison is None or comparison.p is None else comparison


def summarise(lines: Sequence[TrialLine]) -> list[SummaryRow]:
    """Returns all rows of a study. Groups, and methods after BASE, are in the order of their first line.

    Args:
      lines: the finished trials, from `bertjax.study.results.read_results`.
    """
    grouped: dict[tuple[str, float], dict[str, dict[int, TrialLine]]] = {}
    for line in lines:
        group = grouped.setdefault((line["tasks"], line["share"]), {})
        group.setdefault(line["method"], {})[line["seed"]] = line
    rows = []
    for (tasks, share), methods in grouped.items():
        base_first = sorted(methods, key=lambda name: name != BASE)
        for task in tasks.split("+"):
            rows += [_row(tasks, task, share, name, methods) for name in base_first]
    tested = [
        (index, other, comparison.difference.p)
        for index, row in enumerate(rows)
        for other, comparison in row.minus.items()
        if comparison.difference.seeds >= MIN_SEEDS
    ]
    corrected = holm([p for _, _, p in tested])
    for (index, other, _), p in zip(tested, corrected, strict=True):
        minus = rows[index].minus
        rows[index] = dataclasses.replace(rows[index], minus={**minus, other: dataclasses.replace(minus[other], p=p)})
    return rows


def _row(tasks: str, task: str, share: float, method: str, methods: Mapping[str, LinesBySeed]) -> SummaryRow:
    lines, base_lines = methods[method], methods.get(BASE, {})
    dev = {seed: line["dev"][task] for seed, line in sorted(lines.items())}
    first = next(iter(dev.values()))

    def difference(other: str) -> PairedDifference | None:
        if method in (BASE, other):
            return None
        predictions, other_predictions = (
            {seed: line["dev"][task]["predicted"] for seed, line in by_seed.items()}
            for by_seed in (lines, methods.get(other, {}))
        )
        return paired_difference(predictions, other_predictions, first["labels"], SCORES[first["metric"]])

    def ratio(measure: Callable[[TrialLine], float | None], comparable: Callable[[TrialLine], str]) -> float | None:
        medians, base_medians = (_medians(by_seed, measure, comparable) for by_seed in (lines, base_lines))
        ratios = [medians[key] / base_medians[key] for key in medians.keys() & base_medians.keys()]
        return statistics.median(ratios) if ratios else None

    metrics = [name for name, value in first.items() if isinstance(value, float) and name != "score"]
    # With the last layer alone, XLA's count is not that of a whole update.
    flops_ratios = [
        count
        for line in lines.values()
        if line["settings"].get("tune") != "head" and (count := line["cost"]["flops_ratio"]) is not None
    ]
    differences = {name: difference(name) for name in (BASE, LONGER)}
    return SummaryRow(
        tasks=tasks,
        task=task,
        share=share,
        method=method,
        metric=first["metric"],
        dev_rows=len(first["labels"]),
        scores={seed: values["score"] for seed, values in dev.items()},
        minus={name: Comparison(found) for name, found in differences.items() if found is not None},
        metrics={name: statistics.mean(values[name] for values in dev.values()) for name in metrics},
        time_ratio=ratio(_update_seconds, _machine),
        run_ratio=ratio(_run_seconds, _machine),
        flops_ratio=statistics.median(flops_ratios) if flops_ratios else None,
        memory_ratio=ratio(lambda line: line["cost"].get("peak_bytes"), _seed),
        warnings=tuple(dict.fromkeys(warning for line in lines.values() for warning in line["warnings"])),
    )


def _medians(
    lines: LinesBySeed, measure: Callable[[TrialLine], float | None], comparable: Callable[[TrialLine], str]
) -> dict[str, float]:
    """Medians of a measure over trials that can be compared, by the name of what these share."""
    values: dict[str, list[float]] = {}
    for line in lines.values():
        if value := measure(line):
            values.setdefault(comparable(line), []).append(value)
    return {key: statistics.median(each) for key, each in values.items()}


def _seed(line: TrialLine) -> str:
    # The seed draws the examples, and so the longest batch, which sets the peak memory.
    return f"{line['seed']} {line['devices']}"


def _machine(line: TrialLine) -> str:
    return f"{line['machine']} {line['devices']}"


def _update_seconds(line: TrialLine) -> float | None:
    seconds: float | None = line["timing"]["step_seconds_median"]
    return seconds


def _run_seconds(line: TrialLine) -> float | None:
    seconds, further = _update_seconds(line), line["further_seconds"]
    return None if seconds is None or further is None else line["steps"] * seconds + further
