"""A whole run: from a config to a folder with checkpoints, a log and a result."""

import importlib.metadata
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from bertjax import optim, report, smart
from bertjax import workdir as workdirs
from bertjax.checkpoint import Checkpoints
from bertjax.config import RunConfig, read_config
from bertjax.data.batches import eval_batches, real_token_fraction, steps_per_epoch, train_batches
from bertjax.errors import UserError
from bertjax.evaluation import Evaluator, describe_data
from bertjax.inputs import load_inputs
from bertjax.meter import Meter
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.pretrained import lineage, load_pretrained, with_heads
from bertjax.step import TrainState, init_state, train_step

LOG_EVERY = 10
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
ENCODER_FILES = ("config.json", "vocab.txt", "tokenizer_config.json", "tokenizer.json")


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains and evaluates on dev as a config says; goes on where an earlier call was cut off.

    Args:
      config: a recipe's ConfigDict, or a `RunConfig`.
      workdir: folder of the run, new or begun by the same config.

    Returns:
      What `result.json` holds; a finished run is read and not run again.

    Raises:
      UserError: something in the config, the data or the checkpoint that the user can put right.
    """
    config = config if isinstance(config, RunConfig) else read_config(config)
    workdir = Path(workdir)
    result = workdirs.begun(workdir, config)
    if result is None:
        result = _run(config, workdir)
    else:
        print(f"{workdir} holds this run, finished; nothing to do")
    print(report.result_table(result))
    print(f"result in {workdir / 'result.json'}, curves in {workdir / 'curves.png'}")
    return result


def _run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    meter = Meter()
    parallel = DataParallel(jax.devices())
    parallel.check_batch_size(config.batch_size)
    inputs = load_inputs(config, config.init_from, ("train", "dev"))
    task, train, dev = inputs.task, inputs.examples["train"], inputs.examples["dev"]
    fingerprint = inputs.dataset.fingerprint
    head_key, step_key = jax.random.split(jax.random.key(config.seed))
    architecture, params = load_pretrained(inputs.folder)
    params = with_heads(params, architecture, inputs.model.heads, head_key)

    shapes: dict[str, Any] = {"batch_size": config.batch_size, "edges": inputs.edges()}
    epoch_steps = steps_per_epoch(train.lengths, **shapes)
    num_steps = min(config.epochs * epoch_steps, config.max_steps or config.epochs * epoch_steps)
    eval_every = config.eval_every or epoch_steps
    settings = config.smart.settings()
    tx = optim.adamw(optim.linear_schedule(config.learning_rate, num_steps, config.warmup), config.weight_decay)
    state = init_state(params, tx, settings)
    del params  # the first step overwrites them
    step_with = partial(train_step, model=inputs.model, task=task, tx=tx, num_steps=num_steps)
    run_step = CompiledByShape(parallel.map_train(partial(step_with, settings=settings)))
    evaluator = Evaluator(inputs, parallel)
    batches = iter(
        train_batches(train, **shapes, seed=config.seed, epochs=config.epochs, pad_id=architecture.pad_token_id)
    )

    workdirs.begin(workdir, config)
    _keep_encoder(inputs.folder, workdir / "encoder")
    scores: dict[str, Any] = {}
    with Checkpoints(workdir / "checkpoints", task.main_metric) as checkpoints:
        if (last := checkpoints.last()) is not None:
            state, progress = checkpoints.restore(last, state)
            if progress["fingerprint"] != fingerprint:
                raise UserError(
                    f"{workdir}: the data of {task.name} have changed since this run began: fingerprint "
                    f"{fingerprint}, was {progress['fingerprint']}; bring them back, or use another --workdir"
                )
            batches.set_state(progress["iterator"])
            meter.resume(progress["seconds"])
            scores = progress["scores"]
        step = int(state.step)
        state = parallel.replicate(state)
        with workdirs.MetricsLog(workdir, step) as log, _bar(task.name, step, num_steps) as bar:
            while step < num_steps:
                batch = next(batches)
                shards = parallel.shard(batch)
                with meter.paused():
                    run_step.compile(state, shards, step_key)
                state, means = run_step(state, shards, step_key)
                step += 1
                meter.count(batch, parallel.unreplicate(means))
                bar.update()
                if step % LOG_EVERY == 0 or step == num_steps:
                    values, timing = meter.read()
                    _check_finite(values, step)
                    log.write(step, step / epoch_steps, "train", values, timing)
                    bar.set_postfix_str(_postfix(values, timing))
                is_evaluated = step % eval_every == 0 or step == num_steps
                is_saved = config.checkpoint_every and step % config.checkpoint_every == 0
                if not (is_evaluated or is_saved):
                    continue
                with meter.paused():
                    score = None
                    if is_evaluated:
                        score = task.metrics(evaluator.predict(state.params, dev, **shapes), dev.labels)
                        log.write(step, step / epoch_steps, "dev", score, {})
                        bar.write(f"update {step}: dev {_listing(score)}", file=sys.stderr)
                        scores = _with_score(scores, score, task.main_metric, step)
                    progress = {
                        "fingerprint": fingerprint,
                        "iterator": batches.get_state(),
                        "seconds": meter.seconds,
                        "scores": scores,
                    }
                    checkpoints.save(parallel.unreplicate(state), progress, score)
            report.plot_curves(log.records(), task.main_metric, workdir / "curves.png")

    first_batch = parallel.shard(next(iter(eval_batches(train, **shapes, pad_id=architecture.pad_token_id))))
    cost = {
        "real_token_fraction": real_token_fraction(train.lengths, **shapes),
        "compiled_shapes": len(run_step.compiled),
        "flops_ratio": _flops_ratio(run_step, step_with, settings, parallel, state, first_batch, step_key),
    }
    result = {
        "config_digest": config.digest(),
        "seed": config.seed,
        "steps": num_steps,
        "datasets": {task.name: describe_data(inputs.dataset)},
        "lineage": [*lineage(config.init_from), {"trained_on": task.name, "fingerprint": fingerprint}],
        "dev": {task.name: scores},
        "cost": cost,
        "timing": meter.summary(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"platform": jax.default_backend(), "count": len(parallel.devices)},
    }
    workdirs.write_json(workdir / "result.json", result)
    return result


def _flops_ratio(
    run_step: CompiledByShape,
    step_with: Callable[..., Any],
    settings: smart.SmartSettings,
    parallel: DataParallel,
    state: TrainState,
    batch: Mapping[str, Any],
    key: jax.Array,
) -> float:
    """Floating-point operations of an update against plain fine-tuning's, on one batch: its length hardly matters."""
    if not (settings.has_smoothness or settings.has_bregman):
        return 1.0
    plain_step = CompiledByShape(parallel.map_train(partial(step_with, settings=smart.PRESETS["none"])))
    return run_step.flops(state, batch, key) / plain_step.flops(state.replace(anchor=None), batch, key)


def _bar(name: str, step: int, num_steps: int) -> tqdm:
    # Where nobody watches, as in a log file, a line now and then is enough.
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=num_steps, initial=step, desc=name, unit="update", mininterval=interval, file=sys.stderr)


def _postfix(values: Mapping[str, float], timing: Mapping[str, float]) -> str:
    shown = [f"loss {values['loss']:.3f}", f"acc {values['accuracy']:.3f}"]
    terms = {"R_s": "smoothness", "D": "bregman"}
    shown += [f"{symbol} {values[name]:.2e}" for symbol, name in terms.items() if name in values]
    return ", ".join([*shown, f"{timing['examples_per_second']:.0f} examples/s"])


def _listing(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _check_finite(values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"training diverged: {name} is {value} at update {step}; lower --config.learning_rate, "
                "--config.smart.weight or --config.smart.radius, and use another --workdir"
            )


def _with_score(
    scores: Mapping[str, Any], values: Mapping[str, float], metric: str, step: int
) -> dict[str, dict[str, float]]:
    """The scores so far with one more evaluation; of equals the later is best, as Orbax keeps that one."""
    is_best = "best" not in scores or values[metric] >= scores["best"][metric]
    best = dict(values) | {"step": step} if is_best else scores["best"]
    return {"final": dict(values), "best": best}


def _keep_encoder(folder: Path, kept: Path) -> None:
    """Copies the small files that evaluation needs besides parameters: architecture and vocabulary."""
    kept.mkdir(exist_ok=True)
    for name in ENCODER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, kept / name)
