"""Evaluation of a finished run on a split."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from bertjax.config import read_config
from bertjax.data.dataset import Dataset
from bertjax.data.pipeline import declared_tasks, load_inputs
from bertjax.errors import UserError
from bertjax.evaluation import plots, prediction_files
from bertjax.evaluation.bootstrap import intervals
from bertjax.evaluation.calibration import expected_calibration_error
from bertjax.evaluation.finished_run import load_run
from bertjax.evaluation.plots import save_figure
from bertjax.evaluation.predictor import Predictor
from bertjax.evaluation.smoothness import RADIUS, smoothness_step
from bertjax.evaluation.tables import format_rows
from bertjax.files.atomic import write_json, write_text
from bertjax.label_scale import unfold_heads
from bertjax.metrics import Metrics
from bertjax.models.forward import as_smart_model, eval_step
from bertjax.parallel import DataParallel
from bertjax.runs.run_result import label_scales
from bertjax.tasks import Task


def evaluate(
    workdir: Path,
    split: str,
    checkpoint: str = "final",
    *,
    radius: float = RADIUS,
    layout: str = "table",
    moved: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluates a finished run's checkpoint on a split.

    Writes into the folder, and prints a table of: all metrics of each task with their bootstrap intervals, the
    calibration error, for classes, and the measured smoothness. The files are `eval-SPLIT.json` and, for each task,
    `predictions-TASK-SPLIT.csv` and `plot-TASK-SPLIT.png`. A task whose split has no labels has predictions alone.

    Args:
      workdir: of a finished run.
      split: train, dev or test.
      checkpoint: "final", or "best": each task's own best by its main metric on dev.
      radius: of the perturbation at which smoothness is measured (`smoothness.smoothness_step`), of scores in
        standardised units; 0 leaves it out.
      layout: of the predictions, one of `predictions.FORMATS`.
      moved: where the run's data are now, under "data_dir", "data_file" and "dev_file", if elsewhere than they were.

    Returns:
      What eval-SPLIT.json holds.

    Raises:
      UserError: no finished run there, no such split, or a value out of range.
    """
    if not (math.isfinite(radius) and radius >= 0):
        raise UserError(f"--radius: expected a finite number of at least 0, found {radius}")
    run = load_run(workdir)
    for name in moved:
        if getattr(run.config, name) is None:
            raise UserError(f"--config.{name}: {workdir} was trained without; drop the flag")
    config = read_config(run.config.to_dict() | dict(moved))
    prediction_files.check_format(layout, declared_tasks(config))
    parallel = DataParallel(jax.devices())
    inputs = load_inputs(config, run.encoder, (split,)).with_scales(label_scales(run.result))
    pad_id = inputs.model.config.pad_token_id
    summary: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "datasets": {name: describe_data(part.dataset, part.task) for name, part in inputs.data.items()},
        "lineage": run.result["lineage"],
        "warnings": list(run.result["warnings"]),
        "steps": {},
        "metrics": {},
        "intervals": {},
        "smoothness": {},
    }
    rows, notes = [], []
    for name, part in inputs.data.items():
        task, examples, step = part.task, part.examples[split], run.step(name, checkpoint)
        trained_on = run.result["datasets"][name]["fingerprint"]
        if part.dataset.fingerprint != trained_on:
            summary["warnings"].append(f"the data of {name} are not those of the run, {trained_on}")
        restored = run.restore(step, inputs.model)
        params = parallel.replicate(restored)
        shapes: dict[str, Any] = {
            "batch_size": parallel.up_to_even(config.batch_size),
            "bucket_boundaries": part.bucket_boundaries,
        }
        predictor = Predictor(partial(eval_step, model=inputs.model, task=task), parallel, pad_id)
        outputs = predictor.predict(params, examples, **shapes)
        file = workdir / f"predictions-{name}-{split}.csv"
        write_text(file, prediction_files.FORMATS[layout](task, examples.ids, outputs))
        summary["steps"][name] = step
        row = {"task": name, "split": split, "checkpoint": checkpoint, "step": step, "rows": len(examples)}
        rows.append(row)
        notes += [f"{name}: labels are {part.dataset.labels}", f"predictions in {file}"]
        if split in part.dataset.unlabelled:
            notes.append(f"{name}: {split} has no labels, so predictions are all there is")
            continue
        if radius:
            step_fn = partial(
                smoothness_step,
                model=as_smart_model(inputs.model, task),
                divergence=task.divergence,
                radius=radius,
            )
            # As trained: in the labels' units a large mean would cost the differences their digits.
            trained = parallel.replicate(unfold_heads(restored, task.scales))
            divergences = Predictor(step_fn, parallel, pad_id).predict(trained, examples, **shapes)
            mean = float(divergences.mean(dtype=np.float64))
            summary["smoothness"][name] = {"radius": radius, "mean": mean}
            row[f"smoothness at {radius:g}"] = f"{mean:.3g}"
        measure = partial(_measure, task)
        values, bounds = measure(outputs, examples.labels), intervals(measure, outputs, examples.labels)
        summary["metrics"][name], summary["intervals"][name] = values, bounds
        row |= {metric: "{:.4f} [{:.3f}, {:.3f}]".format(value, *bounds[metric]) for metric, value in values.items()}
        path, score = workdir / f"plot-{name}-{split}.png", task.main_metric
        title = f"{name}, {split}: {score.replace('_', ' ')} {values[score]:.3f}"
        save_figure(path, _plot(task, outputs, examples.labels, title))
        notes.append(f"plot in {path}")
    write_json(workdir / f"eval-{split}.json", summary)
    for line in summary["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print("\n".join([format_rows(rows), *notes]))
    return summary


def _measure(task: Task, outputs: np.ndarray, labels: np.ndarray) -> Metrics:
    """The task's metrics and, for classes, the calibration error."""
    if task.schema.is_score:
        return task.metrics(outputs, labels)
    return task.metrics(outputs, labels) | {"calibration_error": expected_calibration_error(outputs, labels)}


def _plot(task: Task, outputs: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    if task.schema.is_score:
        return plots.scatter(outputs[:, 0], labels, title)
    return plots.confusion_matrix(outputs, labels, task.schema.label_names, title)


def describe_data(dataset: Dataset, task: Task) -> dict[str, Any]:
    """What a result says of the data: where from, what its labels are, how many rows, which were left out."""
    scale = {} if task.scale is None else {"label_scale": dataclasses.asdict(task.scale)}
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "labels": dataset.labels,
        "label_names": list(task.schema.label_names),
        **scale,
        "rows": {split: len(examples) for split, examples in dataset.splits.items()},
        "skipped": list(dataset.skipped),
    }
