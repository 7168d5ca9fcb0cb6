"""A fine-tuning run: from a config to a folder with checkpoints, a log and a result."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from bertjax import smart
from bertjax.config import RunConfig, read_config
from bertjax.data import leakage
from bertjax.data.batching import eval_batches, real_token_fraction, steps_per_epoch, train_batches, with_pooled
from bertjax.data.mixture import Mixture, turns
from bertjax.data.pipeline import Inputs, load_inputs
from bertjax.evaluation.evaluator import describe_data
from bertjax.evaluation.predictor import Predictor
from bertjax.files.atomic import write_json
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale, fold_heads
from bertjax.models.forward import Batch, Params, eval_step, pooled_step
from bertjax.parallel import CompiledByShape, DataParallel, is_first_host
from bertjax.pretrained import (
    fitting_heads,
    head_labels,
    head_scales,
    keep_encoder,
    lineage,
    load_pretrained,
    standardized_heads,
    with_heads,
)
from bertjax.runs.workdir import open_workdir
from bertjax.tasks import Task
from bertjax.training import init_checkpoint, optimizer
from bertjax.training.finetuning_step import train_step
from bertjax.training.gradient_surgery import pcgrad
from bertjax.training.result import run_metadata, run_once, skip_warnings
from bertjax.training.state import TrainState, init_state
from bertjax.training.throughput import Meter
from bertjax.training.train_loop import Plan, Scores, num_updates, train_loop

MAX_START_SHARE = 0.1
"""Weight of the start in the anchor at the end of a run, above which a line warns."""


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
    return run_once(config, user_path(workdir), _run)


def _run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    meter = Meter()
    parallel = DataParallel(jax.devices())
    parallel.check_batch_size(config.batch_size, config.micro_batches)
    inputs = _standardized(load_inputs(config, config.init_from, ("train", "dev")))
    tasks, model = inputs.tasks, inputs.model
    _warn([*config.smart.idle(), *inputs.warnings])
    past = lineage(config.init_from)
    head_key, step_key = jax.random.split(jax.random.key(config.seed))
    architecture, params = load_pretrained(config.init_from)
    origin = init_checkpoint.describe_init_checkpoint(past, inputs.folder, params)
    classes = {task.name: task.schema.label_names for task in tasks}
    params = fitting_heads(params, head_labels(inputs.folder), classes)
    params = standardized_heads(params, head_scales(inputs.folder), inputs.scales)
    params = with_heads(params, architecture, model.heads, head_key)

    settings = config.smart.settings()
    plan = _plan(config, inputs, settings)
    _warn(anchor_warnings := _anchor_warnings(plan))
    tx = optimizer.adamw(
        optimizer.linear_schedule(config.learning_rate, plan.num_steps, config.warmup), config.weight_decay
    )
    if config.pcgrad:
        tx = optax.chain(pcgrad(config.seed), tx)
    pooled = _pooled(inputs, params, parallel, config.batch_size) if config.tune == "head" else None
    initial = [init_state(params, tx, settings, config.tune)]
    del params  # the first step overwrites them
    step_with = partial(
        train_step,
        model=model,
        tasks=tasks,
        tx=tx,
        num_steps=plan.num_steps,
        tune=config.tune,
        micro_batches=config.micro_batches,
    )
    run_step = CompiledByShape(parallel.map_train(partial(step_with, settings=settings)))

    with open_workdir(workdir, config):
        if is_first_host():
            init_checkpoint.keep_init_checkpoint(workdir, origin)
            keep_encoder(inputs.folder, workdir / "encoder")
        outcome = train_loop(
            workdir,
            plan,
            initial,
            run_step,
            _mixture(config, inputs, plan.num_steps, pooled),
            step_key,
            _evaluation(inputs, parallel, config.batch_size, pooled),
            parallel=parallel,
            meter=meter,
        )

        first = {
            name: parallel.shard(batch) for name, batch in _first_batches(inputs, config.batch_size, pooled).items()
        }
        steps = [first] if config.pcgrad else [{name: batch} for name, batch in first.items()]
        datasets = {name: describe_data(part.dataset, part.task) for name, part in inputs.data.items()}
        past += [{"trained_on": name, "fingerprint": data["fingerprint"]} for name, data in datasets.items()]
        result = {
            "datasets": datasets,
            "lineage": past,
            "warnings": [
                *inputs.warnings,
                *anchor_warnings,
                *leakage.contamination_warnings(past, datasets),
                *skip_warnings(outcome),
            ],
            "dev": outcome.scores,
            "cost": {
                "real_token_fraction": _real_token_fraction(inputs, config.batch_size),
                "compiled_shapes": len(outcome.peaks),
                "peak_bytes": max((peak for peak in outcome.peaks.values() if peak is not None), default=None),
                "flops_ratio": _flops_ratio(run_step, step_with, settings, parallel, outcome.state, steps, step_key),
            },
            **run_metadata(config, plan.num_steps, meter, parallel),
        }
        if is_first_host():
            write_json(workdir / "result.json", result)
        return result


def _standardized(inputs: Inputs) -> Inputs:
    scores = [part for part in inputs.data.values() if part.task.schema.is_score]
    return inputs.with_scales(
        {part.task.name: LabelScale.of(part.examples["train"].labels, part.task.name) for part in scores}
    )


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _anchor_warnings(plan: Plan) -> list[str]:
    """A line if the anchor is still close to the start when the run ends."""
    if plan.anchor_start is None or (share := plan.anchor_start[-1]) <= MAX_START_SHARE:
        return []
    return [
        f"--config.smart: after all {plan.num_steps} updates D's anchor is still {share:.0%} the start: its decay is "
        "long for this run, and D pulls the outputs back to those of the start; --config.smart.horizon=0.1 follows the "
        "model"
    ]


def _plan(config: RunConfig, inputs: Inputs, settings: smart.SmartSettings) -> Plan:
    per_task = [
        steps_per_epoch(part.examples["train"].lengths, config.batch_size, part.bucket_boundaries)
        for part in inputs.data.values()
    ]
    # With a batch of every task at each update, as many batches make fewer updates.
    epoch_steps = -(-sum(per_task) // (len(per_task) if config.pcgrad else 1))
    main_metrics = {task.name: task.main_metric for task in inputs.tasks}
    if len(main_metrics) > 1:
        main_metrics["mean"] = "score"
    name = "+".join(inputs.data)
    num_steps = num_updates(name, config.epochs * epoch_steps, config.max_steps)
    return Plan(
        name=name,
        num_steps=num_steps,
        epoch_steps=epoch_steps,
        eval_every=config.eval_every or epoch_steps,
        checkpoint_every=config.checkpoint_every,
        main_metrics=main_metrics,
        fingerprints={name: part.dataset.fingerprint for name, part in inputs.data.items()},
        anchor_start=smart.start_share(settings, num_steps) if settings.has_bregman else None,
        scales={name: dataclasses.asdict(scale) for name, scale in inputs.scales.items()},
        max_skipped=config.max_skipped,
        ids={name: part.examples["train"].ids for name, part in inputs.data.items()},
    )


Pooled = Mapping[str, Mapping[str, np.ndarray]]
"""By task and split, what a frozen encoder gives for every example: float32 [N, D]."""


def _pooled(inputs: Inputs, params: Params, parallel: DataParallel, batch_size: int) -> Pooled:
    predictor = Predictor(partial(pooled_step, model=inputs.model), parallel, inputs.model.config.pad_token_id)
    replicated = parallel.replicate(params)
    return {
        name: {
            split: predictor.predict(
                replicated, examples, batch_size=batch_size, bucket_boundaries=part.bucket_boundaries
            )
            for split, examples in part.examples.items()
        }
        for name, part in inputs.data.items()
    }


def _mixture(config: RunConfig, inputs: Inputs, num_steps: int, pooled: Pooled | None) -> Mixture:
    iterators, sizes = {}, {}
    for name, part in inputs.data.items():
        train = part.examples["train"]
        if part.task.scale is not None:
            train = dataclasses.replace(train, labels=part.task.scale.standardize(train.labels))
        shapes: dict[str, Any] = {"batch_size": config.batch_size, "bucket_boundaries": part.bucket_boundaries}
        # Which task has how many turns is drawn: one could have all of them.
        epochs = -(-num_steps // steps_per_epoch(train.lengths, **shapes))
        iterators[name] = train_batches(
            train,
            **shapes,
            seed=config.seed,
            epochs=epochs,
            pad_id=inputs.model.config.pad_token_id,
            convert=None if pooled is None else partial(with_pooled, pooled[name]["train"]),
        )
        sizes[name] = len(train)
    return Mixture(iterators, None if config.pcgrad else turns(sizes, config.sampling, num_steps, config.seed))


def _evaluation(
    inputs: Inputs, parallel: DataParallel, batch_size: int, pooled: Pooled | None
) -> Callable[[Params], Scores]:
    pad_id = inputs.model.config.pad_token_id

    def in_units_of_labels(params: Params, batch: Batch, *, task: Task) -> jax.Array:
        return eval_step(fold_heads(params, inputs.scales), batch, model=inputs.model, task=task)

    predictors = {
        name: Predictor(partial(in_units_of_labels, task=part.task), parallel, pad_id)
        for name, part in inputs.data.items()
    }

    def evaluate(params: Params) -> Scores:
        scores: Scores = {}
        for name, part in inputs.data.items():
            dev = part.examples["dev"]
            states = None if pooled is None else pooled[name]["dev"]
            outputs = predictors[name].predict(
                params, dev, batch_size=batch_size, bucket_boundaries=part.bucket_boundaries, pooled=states
            )
            scores[name] = part.task.metrics(outputs, dev.labels)
        if len(scores) > 1:
            mains = [scores[name][part.task.main_metric] for name, part in inputs.data.items()]
            scores["mean"] = {"score": float(np.mean(mains))}
        return scores

    return evaluate


def _first_batches(inputs: Inputs, batch_size: int, pooled: Pooled | None) -> dict[str, Any]:
    found = {}
    for name, part in inputs.data.items():
        train, pad_id = part.examples["train"], inputs.model.config.pad_token_id
        batch = next(
            iter(eval_batches(train, batch_size=batch_size, bucket_boundaries=part.bucket_boundaries, pad_id=pad_id))
        )
        found[name] = batch if pooled is None else with_pooled(pooled[name]["train"], batch)
    return found


def _real_token_fraction(inputs: Inputs, batch_size: int) -> float:
    real, padded = 0.0, 0.0
    for part in inputs.data.values():
        lengths = part.examples["train"].lengths
        real += lengths.sum()
        padded += lengths.sum() / real_token_fraction(lengths, batch_size, part.bucket_boundaries)
    return real / padded


def _flops_ratio(
    run_step: CompiledByShape,
    step_with: Callable[..., Any],
    settings: smart.SmartSettings,
    parallel: DataParallel,
    state: TrainState,
    steps: Sequence[Mapping[str, Any]],
    key: jax.Array,
) -> float | None:
    """Floating-point operations of an update against plain fine-tuning's, on one batch: its length hardly matters.

    None where the backend does not count them.
    """
    if not (settings.has_smoothness or settings.has_bregman):
        return 1.0

    def flops(settings: smart.SmartSettings, state: TrainState) -> float:
        step = CompiledByShape(parallel.map_train(partial(step_with, settings=settings)))
        return sum(step.flops(state, batches, key) for batches in steps)

    ours = sum(run_step.flops(state, batches, key) for batches in steps)
    if settings.has_smoothness and settings.every > 1:
        # XLA counts the dearer of a condition's branches, and R_s is in every k-th update alone.
        without = flops(dataclasses.replace(settings, weight=0.0), state)
        ours = without + (ours - without) / settings.every
    ratio = ours / flops(smart.PRESETS["none"], state.replace(anchor=None))
    return ratio if math.isfinite(ratio) else None
