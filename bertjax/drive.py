"""The loop that every kind of run shares: updates, log, evaluation, checkpoints, and going on where it was cut off."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertjax import report
from bertjax import workdir as workdirs
from bertjax.checkpoint import Checkpoints
from bertjax.errors import UserError
from bertjax.meter import Meter
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.step import Params, TrainState

LOG_EVERY = 10
Scores = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, and what it is judged by.

    Attributes:
      name: of the run, for the progress bar.
      num_steps: updates.
      epoch_steps: updates of an epoch.
      eval_every: updates between evaluations, each followed by a checkpoint; the last update has one too.
      checkpoint_every: updates between further checkpoints, or None.
      main_metrics: by the name of what is judged (a task, say), the metric that chooses its best checkpoint.
      fingerprints: of the data, by name; a run cannot go on with others.
    """

    name: str
    num_steps: int
    epoch_steps: float
    eval_every: int
    checkpoint_every: int | None
    main_metrics: Mapping[str, str]
    fingerprints: Mapping[str, str]


def drive(
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
) -> tuple[TrainState, dict[str, Any]]:
    """Runs what is left of a run.

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

    Returns:
      The last state, replicated; and by name {"final": metrics, "best": metrics and their "step"}.

    Raises:
      UserError: the data have changed since the run began, or training diverged.
    """
    scores: dict[str, Any] = {}
    state = initial.pop()
    with Checkpoints(workdir / "checkpoints", tuple(plan.main_metrics)) as checkpoints:
        if (last := checkpoints.last()) is not None:
            state, progress = checkpoints.restore(last, state)
            _check_data(workdir, progress["fingerprints"], plan.fingerprints)
            batches.set_state(progress["iterator"])
            meter.resume(progress["seconds"])
            scores = progress["scores"]
        step = int(state.step)
        state = parallel.replicate(state)
        with workdirs.MetricsLog(workdir, step) as log, _bar(plan.name, step, plan.num_steps) as bar:
            meter.open_window()
            while step < plan.num_steps:
                batch = next(batches)
                shards = {name: parallel.shard(part) for name, part in batch.items()}
                if not run_step.knows(shards):
                    with meter.paused():
                        run_step.compile(state, shards, key)
                state, means = run_step(state, shards, key)
                step += 1
                meter.count(batch.values(), parallel.unreplicate(means))
                bar.update()
                if step % LOG_EVERY == 0 or step == plan.num_steps:
                    values, timing = meter.read()
                    _check_finite(values, step)
                    log.write(step, step / plan.epoch_steps, "train", values, timing)
                    bar.set_postfix_str(_postfix(values, timing), refresh=sys.stderr.isatty())
                is_evaluated = step % plan.eval_every == 0 or step == plan.num_steps
                is_saved = plan.checkpoint_every and step % plan.checkpoint_every == 0
                if not (is_evaluated or is_saved):
                    continue
                with meter.paused():
                    _check_finite({name: float(x) for name, x in parallel.unreplicate(means).items()}, step)
                    main = None
                    if is_evaluated:
                        found = evaluate(state.params)
                        _check_finite(_flat(found), step)
                        log.write(step, step / plan.epoch_steps, "dev", _flat(found), {})
                        bar.write(f"update {step}: dev {_listing(_flat(found))}", file=sys.stderr)
                        main = {name: found[name][metric] for name, metric in plan.main_metrics.items()}
                        for name, metric in plan.main_metrics.items():
                            scores[name] = _with_score(scores.get(name), found[name], metric, step)
                    progress = {
                        "fingerprints": dict(plan.fingerprints),
                        "iterator": batches.get_state(),
                        "seconds": meter.seconds,
                        "scores": scores,
                    }
                    checkpoints.save(parallel.unreplicate(state), progress, main)
            report.plot_curves(log.records(), plan.main_metrics, workdir / "curves.png")
    return state, scores


def _flat(scores: Scores) -> dict[str, float]:
    """Metrics under their own names where one thing is judged, else as "TASK/metric"."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    return {f"{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}


def _check_data(workdir: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name, fingerprint in now.items():
        if then[name] != fingerprint:
            raise UserError(
                f"{workdir}: the data of {name} have changed since this run began: fingerprint "
                f"{fingerprint}, was {then[name]}; bring them back, or use another --workdir"
            )


def _bar(name: str, step: int, num_steps: int) -> tqdm:
    # Where nobody watches, as in a log file, a line now and then is enough.
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=num_steps, initial=step, desc=name, unit="update", mininterval=interval, file=sys.stderr)


def _postfix(values: Mapping[str, float], timing: Mapping[str, float]) -> str:
    terms = {"acc": "accuracy", "R_s": "smoothness", "D": "bregman"}
    shown = [f"{symbol} {values[name]:.3g}" for symbol, name in terms.items() if name in values]
    return ", ".join([f"loss {values['loss']:.3f}", *shown, f"{timing['examples_per_second']:.0f} examples/s"])


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
