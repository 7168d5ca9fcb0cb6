"""The training loop of every run: updates, log, evaluation and checkpoints, interrupted and resumed exactly."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from bertjax.errors import UserError
from bertjax.evaluation.plots import save_figure, training_curves
from bertjax.models.forward import Params
from bertjax.parallel import CompiledByShape, DataParallel, is_first_host, peak_bytes
from bertjax.runs.checkpoint import Checkpoints
from bertjax.runs.metrics_log import MetricsLog, read_records
from bertjax.signals import Abandoned, Interrupted, Interruption
from bertjax.training.nonfinite import SkippedSteps
from bertjax.training.state import TrainState
from bertjax.training.throughput import Meter

LOG_EVERY = 10
"""Updates between records of training metrics."""
Scores = dict[str, dict[str, float]]
"""Metrics by the name of a task or corpus, or "mean" for the mean over tasks."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run, and when it is evaluated and saved.

    Attributes:
      name: Name of the run, for the progress bar.
      num_steps: Updates, skipped ones included.
      epoch_steps: Updates per epoch.
      eval_every: Updates between evaluations, each followed by a checkpoint. The last update has both as well.
      checkpoint_every: Updates between further checkpoints, or None.
      main_metrics: For each name in `Scores`, the metric that selects its best checkpoint.
      fingerprints: Fingerprints of the data, by name; a run cannot be resumed on other data.
      max_skipped: Maximum number of updates skipped in a row, see `nonfinite`.
      ids: Ids of the training rows, by task; rows of a task without ids are named by their index.
      scales: Mean and std of each score task's labels, by task; a run cannot be resumed with others.
      anchor_start: Weight of the initial parameters in the anchor after each update, float64 [num_steps + 1], for the
        log; None without an anchor.
    """

    name: str
    num_steps: int
    epoch_steps: float
    eval_every: int
    checkpoint_every: int | None
    main_metrics: Mapping[str, str]
    fingerprints: Mapping[str, str]
    max_skipped: int
    ids: Mapping[str, Sequence[str]]
    scales: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    anchor_start: np.ndarray | None = None

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation and a checkpoint follow this update."""
        return step % self.eval_every == 0 or step == self.num_steps

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint follows this update."""
        return self.evaluates_at(step) or bool(self.checkpoint_every and step % self.checkpoint_every == 0)


def num_updates(name: str, all_epochs: int, max_steps: int | None) -> int:
    """Number of updates of a run: all epochs, or `max_steps` if fewer, which is then reported on stderr."""
    if max_steps is None or max_steps >= all_epochs:
        return all_epochs
    print(f"{name}: --config.max_steps ends the run after {max_steps:,} of {all_epochs:,} updates", file=sys.stderr)
    return max_steps


class Outcome(NamedTuple):
    """The result of a training loop.

    Attributes:
      state: The last state, replicated.
      scores: By name, as in `Scores`, {"final": metrics, "best": metrics and their "step"}.
      skipped: Number of updates skipped because their loss or gradient was not finite.
      peaks: By batch shapes, the bytes that XLA allocates on a device for an update; None if unknown.
    """

    state: TrainState
    scores: dict[str, Any]
    skipped: int
    peaks: dict[str, int | None]


def train_loop(
    workdir: Path,
    plan: Plan,
    initial: list[TrainState],
    run_step: CompiledByShape,
    batches: Any,
    key: Any,
    evaluate: Callable[[Params], Scores],
    *,
    parallel: DataParallel,
    meter: Meter,
) -> Outcome:
    """Trains from the last checkpoint to the end; a killed and resumed run has the same result, bit for bit.

    Args:
      workdir: The run's existing folder.
      plan: How long the run is, and when it is evaluated and saved.
      initial: A list of the state before the first update. It is popped, so that the caller does not keep it in memory.
      run_step: (state, sharded batches, key) to the next state and scalars, both replicated.
      batches: Iterator over mappings from a name to a batch, with `get_state` and `set_state`.
      key: The run's key, the same at every step.
      evaluate: From replicated parameters to metrics, by the names of `plan.main_metrics`.
      parallel: The devices.
      meter: The run's clock.

    Raises:
      UserError: The data have changed since the run began, training diverged, or the folder cannot be written.
      Interrupted: SIGTERM or SIGINT arrived. The update was finished and the state is saved.
    """
    # On several hosts a signal may reach only one; the scheduler's notice reaches all.
    interruption = Interruption() if jax.process_count() == 1 else Interruption(())
    with Checkpoints(workdir / "checkpoints", tuple(plan.main_metrics)) as checkpoints, interruption:
        loop = _Loop(plan, run_step, batches, key, evaluate, parallel, meter, checkpoints, interruption)
        loop.resume(workdir, initial.pop())
        with MetricsLog(workdir, loop.step, eval_pending=loop.eval_pending) as log, _bar(plan, loop.step) as bar:
            loop.log, loop.bar = log, bar
            if loop.eval_pending:
                loop.evaluate_and_save()
            while loop.step < plan.num_steps:
                loop.train_one()
                loop.log_if_due()
                if plan.saves_at(loop.step):
                    loop.evaluate_and_save()
            if is_first_host():
                save_figure(workdir / "curves.png", training_curves(read_records(workdir), plan.main_metrics))
    return Outcome(loop.state, loop.scores, loop.skipped.total, loop.peaks)


@dataclasses.dataclass
class _Loop:
    """The state of a training loop, and the parts of an iteration in the order they run."""

    plan: Plan
    run_step: CompiledByShape
    batches: Any
    key: Any
    evaluate: Callable[[Params], Scores]
    parallel: DataParallel
    meter: Meter
    checkpoints: Checkpoints
    interruption: Interruption
    step: int = 0
    eval_pending: bool = False
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    peaks: dict[str, int | None] = dataclasses.field(default_factory=dict)
    state: TrainState = dataclasses.field(init=False)
    skipped: SkippedSteps = dataclasses.field(init=False)
    log: MetricsLog = dataclasses.field(init=False)
    bar: tqdm = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.skipped = SkippedSteps(self.plan.max_skipped, self.plan.ids)

    def resume(self, workdir: Path, initial: TrainState) -> None:
        """Continues from the last checkpoint, if there is one, else from `initial`."""
        last = self.checkpoints.restore_last(initial)
        if last is None:
            self.state = self.parallel.replicate(initial)
            self.meter.open_window()
            return
        self.step, restored, progress = last
        _check_data(workdir, progress["fingerprints"], self.plan.fingerprints)
        _check_scales(workdir, progress.get("scales", {}), self.plan.scales)
        self.batches.set_state(progress["iterator"])
        self.skipped.resume(progress["skipped"])
        self.scores, self.peaks = progress["scores"], progress["peaks"]
        # Checkpoints of earlier versions have the opposite under "is_judged".
        self.eval_pending = progress.get("eval_pending", not progress.get("is_judged", True))
        self.state = self.parallel.replicate(restored)
        self.meter.resume(progress["seconds"], progress["window"])

    def train_one(self) -> None:
        """One update on the next batch."""
        self.stop_if_asked()
        batch = next(self.batches)
        shards = {name: self.parallel.shard(part) for name, part in batch.items()}
        if not self.run_step.has_compiled(shards):
            self.compile(_shapes(batch), shards)
        self.state, replicated = self.run_step(self.state, shards, self.key)
        self.step += 1
        means = self.parallel.unreplicate(replicated)
        self.meter.count(batch.values(), means)
        self.skipped.count(self.step, batch, means)
        self.bar.update()

    def compile(self, shapes: str, shards: Any) -> None:
        """Compiles the step for batches of these shapes; rates exclude this time."""
        before = self.run_step.seconds
        with self.meter.paused():
            self.peaks[shapes] = peak_bytes(self.run_step.compile(self.state, shards, self.key))
        self.print_lines(f"compiled for {shapes} in {self.run_step.seconds - before:.1f} s")

    def log_if_due(self) -> None:
        """Writes the means since the last record, every LOG_EVERY updates and at the end."""
        if self.step % LOG_EVERY and self.step != self.plan.num_steps:
            return
        self.print_lines(*self.skipped.report())
        values, timing = self.meter.read()
        if self.plan.anchor_start is not None:
            values["anchor_start"] = float(self.plan.anchor_start[self.step - self.skipped.total])
        self.log.write(self.step, self.step / self.plan.epoch_steps, "train", values, timing)
        self.bar.set_postfix_str(_postfix(values, timing), refresh=sys.stderr.isatty())

    def evaluate_and_save(self) -> None:
        """Evaluates on dev if the plan says so, then saves a checkpoint."""
        self.eval_pending = True
        self.stop_if_asked()
        with self.meter.paused():
            self.print_lines(*self.skipped.report())
            main = self.main_scores() if self.plan.evaluates_at(self.step) else None
            self.eval_pending = False
            if main or not self.skipped.in_row:  # a state that may have diverged must not replace the last good one
                state = self.parallel.unreplicate(self.state)
                self.checkpoints.save(self.step, state, self.progress(), main)

    def main_scores(self) -> dict[str, float]:
        """Evaluates, logs all metrics, and returns the main ones; a signal interrupts it immediately."""
        try:
            with self.interruption.raise_at_once():
                found = self.evaluate(self.state.params)
        except Abandoned:
            raise self.interrupted() from None
        metrics = _flat(found)
        _check_finite(metrics, self.step)
        self.log.write(self.step, self.step / self.plan.epoch_steps, "dev", metrics, {})
        self.print_lines(f"update {self.step}: dev {_listing(metrics)}")
        for name, metric in self.plan.main_metrics.items():
            self.scores[name] = _with_score(self.scores.get(name), found[name], metric, self.step)
        return {name: found[name][metric] for name, metric in self.plan.main_metrics.items()}

    def stop_if_asked(self) -> None:
        """Raises Interrupted, with the state saved, after a signal or a scheduler's notice."""
        if self.interruption.name or self.checkpoints.reached_preemption(self.step):
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """Saves the state between two checkpoints; returns the exception to raise."""
        self.print_lines(*self.skipped.report())
        self.checkpoints.save_interrupted(self.step, self.parallel.unreplicate(self.state), self.progress())
        return Interrupted(f"stopped after update {self.step} of {self.plan.num_steps}; the state is saved")

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs besides the state, as JSON."""
        return {
            "fingerprints": dict(self.plan.fingerprints),
            "scales": dict(self.plan.scales),
            "iterator": self.batches.get_state(),
            "skipped": self.skipped.counts(),
            "scores": self.scores,
            "peaks": self.peaks,
            "eval_pending": self.eval_pending,
            "seconds": self.meter.seconds,
            "window": self.meter.window(),
        }

    def print_lines(self, *lines: str) -> None:
        """Prints lines above the progress bar."""
        for line in lines:
            self.bar.write(line, file=sys.stderr)


def _flat(scores: Scores) -> dict[str, float]:
    """Metrics by name, or by "TASK/metric" if there are several tasks."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    return {f"{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}


def _shapes(batches: Mapping[str, Mapping[str, Any]]) -> str:
    """The shapes of batches as text: "sst5 32 × 24"."""
    sizes = {name: batch.get("input_ids", batch["valid"]).shape for name, batch in batches.items()}
    return ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in sizes.items())


def _check_data(workdir: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name, fingerprint in now.items():
        if then[name] != fingerprint:
            raise UserError(
                f"{workdir}: the data of {name} have changed since this run began: fingerprint {fingerprint}, was "
                f"{then[name]}; restore them, or use another --workdir"
            )


def _check_scales(workdir: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    values = [(then.get(name, {}).get(part), now[name][part]) for name in now for part in ("mean", "std")]
    # Another machine may sum the labels in another order.
    if then.keys() != now.keys() or not all(was is not None and math.isclose(was, is_now) for was, is_now in values):
        raise UserError(
            f"{workdir}: expected a run that standardises its scores by {dict(now)}, found one begun with "
            f"{dict(then) or 'raw scores, by an earlier version'}; finish it with the version that began it, or use "
            "another --workdir"
        )


def _bar(plan: Plan, step: int) -> tqdm:
    # In a log file every refresh is a line.
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(
        total=plan.num_steps,
        initial=step,
        desc=plan.name,
        unit="update",
        mininterval=interval,
        file=sys.stderr,
        disable=not is_first_host(),
    )


def _postfix(values: Mapping[str, float], timing: Mapping[str, float]) -> str:
    terms = {"acc": "accuracy", "R_s": "smoothness", "D": "bregman"}
    loss = [f"loss {values['loss']:.3f}"] if "loss" in values else []
    shown = [f"{symbol} {values[name]:.3g}" for symbol, name in terms.items() if name in values]
    if "anchor_start" in values:
        shown.append(f"anchor {values['anchor_start']:.0%} start")
    return ", ".join([*loss, *shown, f"{timing['examples_per_second']:.0f} examples/s"])


def _listing(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _check_finite(values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"training diverged: {name} is {value} at update {step}; lower --config.learning_rate, "
                "or SMART's weight or radius, and use another --workdir"
            )


def _with_score(
    scores: Mapping[str, Any] | None, values: Mapping[str, float], metric: str, step: int
) -> dict[str, dict[str, float]]:
    """Adds an evaluation to the scores. If scores tie, the later is best, as in Orbax."""
    is_best = scores is None or values[metric] >= scores["best"][metric]
    best = dict(values) | {"step": step} if is_best else dict(scores["best"])  # type: ignore[index]
    return {"final": dict(values), "best": best}
