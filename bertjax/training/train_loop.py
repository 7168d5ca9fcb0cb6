"""The loop that all runs share: updates, log, evaluation, checkpoints; how it stops when asked and goes on when cut."""

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


Scores = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, and what it is judged by.

    Attributes:
      name: of the run, for the progress bar.
      num_steps: updates, those left out included.
      epoch_steps: updates of an epoch.
      eval_every: updates between evaluations, each followed by a checkpoint; the last update has one too.
      checkpoint_every: updates between further checkpoints, or None.
      main_metrics: by the name of what is judged (a task, say), the metric that chooses its best checkpoint.
      fingerprints: of the data, by name; a run cannot go on with others.
      max_skipped: updates in a row that may be left out, as `guard` does.
      ids: of training rows, by the name of their batches; where there are none, a row's place stands for it.
      scales: mean and std of the labels of scores, by name; a run cannot go on with others.
      anchor_start: weight of the start in the anchor after each update, float64 [num_steps + 1], for the log; None
        without an anchor.
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

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation, and a checkpoint, come after an update."""
        return step % self.eval_every == 0 or step == self.num_steps

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint comes after an update."""
        return self.is_evaluated(step) or bool(self.checkpoint_every and step % self.checkpoint_every == 0)


def num_updates(name: str, whole: int, most: int | None) -> int:
    """The updates of a run: all of its epochs' or, told on stderr, the `most` that its config allows."""
    if most is None or most >= whole:
        return whole
    print(f"{name}: {most:,} of the {whole:,} updates of its epochs, as --config.max_steps says", file=sys.stderr)
    return most


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
      state: the last, replicated.
      scores: by what was judged, {"final": metrics, "best": metrics and their "step"}.
      skipped: updates that were left out, as their loss or gradient was not finite.
      peaks: bytes that XLA sets aside on a device for an update, or None, by the batches that it was compiled for.
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
    """Runs what is left of a run: killed at any moment and called again, it comes to the same end, bit for bit.

    Args:
      workdir: its folder, begun.
      plan: how long, how often.
      initial: the state before the first update, taken out: what the caller kept would stay in memory.
      run_step: (state, batches, key) to the next state and scalars; all on every replica.
      batches: iterator with `get_state` and `set_state`, over mappings from a name to a batch.
      key: for every step.
      evaluate: from replicated parameters to metrics, by the names of `plan.main_metrics`.
      parallel: the devices.
      meter: the run's clock.

    Raises:
      UserError: the data have changed since the run began, training diverged, or the folder cannot be written.
      Interrupted: SIGTERM or SIGINT came; the update was finished and the state is saved.
    """
    state, step, is_judged = initial.pop(), 0, True
    scores: dict[str, Any] = {}
    peaks: dict[str, int | None] = {}
    # On several hosts a signal reaches one of them, and the scheduler's notice all.
    interruption = Interruption() if jax.process_count() == 1 else Interruption(())
    with Checkpoints(workdir / "checkpoints", tuple(plan.main_metrics)) as checkpoints, interruption:
        skips = SkippedSteps(plan.max_skipped, plan.ids)
        if (last := checkpoints.restore_last(state)) is not None:
            step, state, progress = last
            _check_data(workdir, progress["fingerprints"], plan.fingerprints)
            _check_scales(workdir, progress.get("scales", {}), plan.scales)
            batches.set_state(progress["iterator"])
            skips.resume(progress["skipped"])
            scores, peaks, is_judged = progress["scores"], progress["peaks"], progress["is_judged"]
        state = parallel.replicate(state)
        with MetricsLog(workdir, step, is_judged=is_judged) as log, _bar(plan, step) as bar:
            meter.open_window()
            if last is not None:
                meter.resume(progress["seconds"], progress["window"])

            def tell(lines: Sequence[str]) -> None:
                for line in lines:
                    bar.write(line, file=sys.stderr)

            def progress_now() -> dict[str, Any]:
                return {
                    "fingerprints": dict(plan.fingerprints),
                    "scales": dict(plan.scales),
                    "iterator": batches.get_state(),
                    "skipped": skips.counts(),
                    "scores": scores,
                    "peaks": peaks,
                    "is_judged": is_judged,
                    "seconds": meter.seconds,
                    "window": meter.window(),
                }

            while step < plan.num_steps or not is_judged:
                if interruption.name or checkpoints.reached_preemption(step):
                    tell(skips.check())
                    checkpoints.save_interrupted(step, parallel.unreplicate(state), progress_now())
                    raise Interrupted(f"stopped after update {step} of {plan.num_steps}, which is saved")
                if is_judged:
                    batch = next(batches)
                    shards = {name: parallel.shard(part) for name, part in batch.items()}
                    if not run_step.knows(shards):
                        before, shapes = run_step.seconds, _shapes(batch)
                        with meter.paused():
                            peaks[shapes] = peak_bytes(run_step.compile(state, shards, key))
                        tell([f"compiled for {shapes} in {run_step.seconds - before:.1f} s"])
                    state, replicated = run_step(state, shards, key)
                    step += 1
                    means = parallel.unreplicate(replicated)
                    meter.count(batch.values(), means)
                    skips.count(step, batch, means)
                    bar.update()
                    if step % LOG_EVERY == 0 or step == plan.num_steps:
                        tell(skips.check())
                        values, timing = meter.read()
                        if plan.anchor_start is not None:
                            values["anchor_start"] = float(plan.anchor_start[step - skips.total])
                        log.write(step, step / plan.epoch_steps, "train", values, timing)
                        bar.set_postfix_str(_postfix(values, timing), refresh=sys.stderr.isatty())
                    is_judged = not plan.is_saved(step)
                    continue
                with meter.paused():
                    tell(skips.check())
                    main = None
                    if plan.is_evaluated(step):
                        try:
                            with interruption.abandons():
                                found = evaluate(state.params)
                        except Abandoned:
                            continue
                        flat = _flat(found)
                        _check_finite(flat, step)
                        log.write(step, step / plan.epoch_steps, "dev", flat, {})
                        tell([f"update {step}: dev {_listing(flat)}"])
                        main = {name: found[name][metric] for name, metric in plan.main_metrics.items()}
                        for name, metric in plan.main_metrics.items():
                            scores[name] = _with_score(scores.get(name), found[name], metric, step)
                    is_judged = True
                    if main or not skips.in_row:  # what may have diverged does not take the last good one's place
                        checkpoints.save(step, parallel.unreplicate(state), progress_now(), main)
            if is_first_host():
                save_figure(workdir / "curves.png", training_curves(read_records(workdir), plan.main_metrics))
    return Outcome(state, scores, skips.total, peaks)


def _flat(scores: Scores) -> dict[str, float]:
    """Metrics under their own names where one thing is judged, else as "TASK/metric"."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    return {f"{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}


def _shapes(batches: Mapping[str, Mapping[str, Any]]) -> str:
    """What a person knows batches by: "sst5 32 × 24"."""
    sizes = {name: batch.get("input_ids", batch["valid"]).shape for name, batch in batches.items()}
    return ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in sizes.items())


def _check_data(workdir: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name, fingerprint in now.items():
        if then[name] != fingerprint:
            raise UserError(
                f"{workdir}: the data of {name} have changed since this run began: fingerprint "
                f"{fingerprint}, was {then[name]}; bring them back, or use another --workdir"
            )


def _check_scales(workdir: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    values = [(then.get(name, {}).get(part), now[name][part]) for name in now for part in ("mean", "std")]
    # Another machine may add the labels up in another order.
    if then.keys() != now.keys() or not all(was is not None and math.isclose(was, is_now) for was, is_now in values):
        raise UserError(
            f"{workdir}: expected a run that standardises its scores by {dict(now)}, found one begun with "
            f"{dict(then) or 'raw scores, by an earlier version'}; finish it with the version that began it, or use "
            "another --workdir"
        )


def _bar(plan: Plan, step: int) -> tqdm:
    # Where nobody watches, as in a log file, a line now and then is enough.
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
    """The scores so far with one more evaluation; of equals the later is best, as Orbax keeps that one."""
    is_best = scores is None or values[metric] >= scores["best"][metric]
    best = dict(values) | {"step": step} if is_best else dict(scores["best"])  # type: ignore[index]
    return {"final": dict(values), "best": best}
