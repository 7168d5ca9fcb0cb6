"""A fine-tuning run: from a config to a folder with checkpoints, a log and a result."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from bertjax import smart
from bertjax.config import RunConfig, read_config
from bertjax.data.leakage import contamination_warnings
from bertjax.data.pipeline import Inputs, load_inputs
from bertjax.files.atomic import write_json
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.forward import Params
from bertjax.parallel import CompiledByShape, DataParallel, is_first_host
from bertjax.pretrained import (
    check_head_alone,
    classifier_problem_type,
    copy_encoder_files,
    head_class_names,
    head_label_scales,
    load_pretrained,
    matching_heads,
    read_lineage,
    standardize_heads,
    with_heads,
)
from bertjax.runs.workdir import open_workdir
from bertjax.training.cost import flops_ratio
from bertjax.training.finetuning_data import FinetuningData
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.gradient_surgery import pcgrad
from bertjax.training.init_checkpoint import describe_init_checkpoint, keep_init_checkpoint
from bertjax.training.optimizer import adamw, linear_schedule
from bertjax.training.result import run_metadata, run_once, skip_warnings
from bertjax.training.state import init_state
from bertjax.training.throughput import Meter
from bertjax.training.train_loop import Plan, num_updates, train_loop

MAX_START_SHARE = 0.1
"""A run warns if the initial parameters have more than this weight in its final anchor."""


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Fine-tunes and evaluates on dev as a config says, or resumes where an earlier call stopped.

    Args:
      config: A recipe's ConfigDict, or a `RunConfig`.
      workdir: The run's folder, new or begun with the same config.

    Returns:
      The contents of `result.json`. A finished run is not repeated.

    Raises:
      UserError: Something in the config, the data or the checkpoint that the user can fix.
    """
    config = config if isinstance(config, RunConfig) else read_config(config)
    return run_once(config, user_path(workdir), _run)


def _run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    meter = Meter()
    parallel = DataParallel(jax.devices())
    parallel.check_batch_size(config.batch_size, config.micro_batches)
    head_key, step_key = jax.random.split(jax.random.key(config.seed))

    # Data and model.
    inputs = _standardized(load_inputs(config, config.init_from, ("train", "dev")))
    _warn([*config.smart.idle(), *inputs.warnings])
    past = read_lineage(config.init_from)
    architecture, loaded = load_pretrained(config.init_from)
    if config.tune == "head":
        check_head_alone(architecture, loaded, config.init_from)
    init_checkpoint = describe_init_checkpoint(past, inputs.folder, loaded)
    params = with_heads(_own_heads(loaded, inputs), architecture, inputs.model.heads, head_key)
    data = FinetuningData(config, inputs, params, parallel)

    # The step.
    settings = config.smart.settings()
    plan = _plan(config, inputs, data.steps_per_epoch(), settings)
    _warn(anchor_warnings := _anchor_warnings(plan))
    tx = adamw(linear_schedule(config.learning_rate, plan.num_steps, config.warmup), config.weight_decay)
    if config.pcgrad:
        tx = optax.chain(pcgrad(config.seed), tx)
    spec = FinetuningSpec(
        model=inputs.model,
        tasks=inputs.tasks,
        tx=tx,
        settings=settings,
        num_steps=plan.num_steps,
        tune=config.tune,
        micro_batches=config.micro_batches,
    )
    run_step = CompiledByShape(parallel.map_train(partial(train_step, spec)))
    initial = [init_state(params, tx, settings, config.tune)]
    del loaded, params  # the first step overwrites their buffers

    with open_workdir(workdir, config):
        if is_first_host():
            keep_init_checkpoint(workdir, init_checkpoint)
            copy_encoder_files(inputs.folder, workdir / "encoder")
        outcome = train_loop(
            workdir,
            plan,
            initial,
            run_step,
            data.stream(plan.num_steps),
            step_key,
            data.evaluate,
            parallel=parallel,
            meter=meter,
        )

        # The result.
        datasets = {name: part.describe() for name, part in inputs.data.items()}
        past += [{"trained_on": name, "fingerprint": dataset["fingerprint"]} for name, dataset in datasets.items()]
        result = {
            "datasets": datasets,
            "lineage": past,
            "warnings": [
                *inputs.warnings,
                *anchor_warnings,
                *contamination_warnings(past, datasets),
                *skip_warnings(outcome),
            ],
            "dev": outcome.scores,
            "cost": {
                "real_token_fraction": data.real_token_fraction(),
                "compiled_shapes": len(outcome.peaks),
                "peak_bytes": max((peak for peak in outcome.peaks.values() if peak is not None), default=None),
                "flops_ratio": flops_ratio(spec, run_step, outcome.state, data.sample_steps(), step_key, parallel),
            },
            **run_metadata(config, plan.num_steps, meter, parallel),
        }
        if is_first_host():
            write_json(workdir / "result.json", result)
        return result


def _standardized(inputs: Inputs) -> Inputs:
    """Standardises score tasks by their training labels."""
    parts = [part for part in inputs.data.values() if part.task.schema.is_score]
    return inputs.with_scales(
        {part.task.name: LabelScale.from_labels(part.examples["train"].labels, part.task.name) for part in parts}
    )


def _own_heads(params: Params, inputs: Inputs) -> Params:
    """The checkpoint's parameters, with its heads matched and scaled to the tasks."""
    classes = {task.name: task.schema.label_names for task in inputs.tasks}
    problem_type = classifier_problem_type(inputs.folder) if "classifier" in params else None
    params = matching_heads(params, head_class_names(inputs.folder), classes, problem_type)
    return standardize_heads(params, head_label_scales(inputs.folder), inputs.scales)


def _plan(config: RunConfig, inputs: Inputs, epoch_steps: int, settings: smart.SmartSettings) -> Plan:
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


def _anchor_warnings(plan: Plan) -> list[str]:
    """A line if the anchor is still close to the initial parameters when the run ends."""
    if plan.anchor_start is None or (share := plan.anchor_start[-1]) <= MAX_START_SHARE:
        return []
    return [
        f"--config.smart: after all {plan.num_steps} updates D's anchor is still {share:.0%} the start: its decay is "
        "too slow for this run, so D pulls the outputs back to those of the start; set --config.smart.horizon=0.1"
    ]


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
