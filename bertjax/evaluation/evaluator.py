"""Evaluates a finished run on a split: predictions, metrics with intervals, smoothness and a plot for each task."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from bertjax.config import read_config
from bertjax.data.pipeline import Inputs, TaskData, declared_tasks, load_inputs
from bertjax.errors import UserError
from bertjax.evaluation import plots, prediction_files
from bertjax.evaluation.bootstrap import bootstrap_intervals
from bertjax.evaluation.calibration import expected_calibration_error
from bertjax.evaluation.finished_run import FinishedRun, load_run
from bertjax.evaluation.plots import save_figure
from bertjax.evaluation.predictor import Predictor
from bertjax.evaluation.smoothness import RADIUS, smoothness_step
from bertjax.evaluation.tables import format_rows
from bertjax.files.atomic import write_json, write_text
from bertjax.label_scale import unfold_heads
from bertjax.metrics import Metrics
from bertjax.models.forward import Params, as_smart_model, eval_step
from bertjax.parallel import DataParallel
from bertjax.runs.run_result import label_scales
from bertjax.tasks import Task


@dataclasses.dataclass(frozen=True)
class _TaskEvaluation:
    """One task's outputs and measurements on a split; without labels, only its outputs.

    Attributes:
      step: the checkpoint's step.
      outputs: logits [N, C], or scores [N, 1] in the labels' units.
      smoothness: mean divergence between clean and perturbed outputs; None if not measured.
      metrics: values by name; empty without labels.
      intervals: [low, high] by name of metric.
    """

    step: int
    outputs: np.ndarray
    smoothness: float | None = None
    metrics: Metrics = dataclasses.field(default_factory=dict)
    intervals: dict[str, list[float]] = dataclasses.field(default_factory=dict)


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

    Measures each task's metrics with bootstrap intervals, the calibration error (classes only) and the smoothness.
    Prints them as a table. Writes into the run's folder `eval-SPLIT.json` and, for each task,
    `predictions-TASK-SPLIT.csv` and `plot-TASK-SPLIT.png`. A task without labels in the split gets only predictions.

    Args:
      workdir: folder of a finished run.
      split: train, dev or test.
      checkpoint: "final", or "best": for each task, its own best checkpoint by its main metric on dev.
      radius: relative radius of the perturbation for the smoothness, see `smoothness_step`; 0 skips it. The smoothness
        of scores is in standardised units.
      layout: format of the predictions, a key of `prediction_files.FORMATS`.
      moved: new "data_dir", "data_file" or "dev_file", if the data have moved since training.

    Returns:
      The content of eval-SPLIT.json.

    Raises:
      UserError: the folder holds no finished run, the split does not exist, or a value is out of range.
    """
    if not (math.isfinite(radius) and radius >= 0):
        raise UserError(f"--radius: expected a finite number of at least 0, found {radius}")
    run = load_run(workdir)
    inputs = _load_split(run, split, layout, moved)
    evaluations, rows, notes = {}, [], []
    for name, task_data in inputs.data.items():
        evaluation = _evaluate_task(run, inputs, name, split, run.step(name, checkpoint), radius)
        evaluations[name] = evaluation
        about = {"task": name, "split": split, "checkpoint": checkpoint, "step": evaluation.step}
        rows.append(about | {"rows": len(evaluation.outputs)} | _table_cells(evaluation, radius))
        notes += _write_files(workdir, task_data, split, evaluation, layout)
    measured = {name: evaluation for name, evaluation in evaluations.items() if evaluation.metrics}
    summary = {
        "split": split,
        "checkpoint": checkpoint,
        "datasets": {name: part.describe() for name, part in inputs.data.items()},
        "lineage": run.result["lineage"],
        "warnings": run.result["warnings"] + _changed_data(run, inputs),
        "steps": {name: evaluation.step for name, evaluation in evaluations.items()},
        "metrics": {name: evaluation.metrics for name, evaluation in measured.items()},
        "intervals": {name: evaluation.intervals for name, evaluation in measured.items()},
        "smoothness": {
            name: {"radius": radius, "mean": evaluation.smoothness}
            for name, evaluation in measured.items()
            if evaluation.smoothness is not None
        },
    }
    write_json(workdir / f"eval-{split}.json", summary)
    for line in summary["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print("\n".join([format_rows(rows), *notes]))
    return summary


def _load_split(run: FinishedRun, split: str, layout: str, moved: Mapping[str, str]) -> Inputs:
    """Checks the predictions' format and loads the model's architecture and the split."""
    for name in moved:
        if getattr(run.config, name) is None:
            raise UserError(f"--config.{name}: {run.workdir} was trained without it; drop the flag")
    config = read_config(run.config.to_dict() | dict(moved))
    prediction_files.check_format(layout, declared_tasks(config))
    return load_inputs(config, run.encoder, (split,)).with_scales(label_scales(run.result))


def _evaluate_task(
    run: FinishedRun, inputs: Inputs, name: str, split: str, step: int, radius: float
) -> _TaskEvaluation:
    """Predicts a split with the parameters of a step; with labels, measures smoothness and metrics too."""
    model, task_data = inputs.model, inputs.data[name]
    task, examples = task_data.task, task_data.examples[split]
    parallel = DataParallel(jax.devices())

    def over_split(step_fn: Callable[..., jax.Array], params: Params) -> np.ndarray:
        return Predictor(step_fn, parallel, model.config.pad_token_id).predict(
            parallel.replicate(params),
            examples,
            batch_size=parallel.round_up_batch_size(run.config.batch_size),
            bucket_boundaries=task_data.bucket_boundaries,
        )

    params = run.restore(step, model)
    outputs = over_split(partial(eval_step, model=model, task=task), params)
    if split in task_data.dataset.unlabelled:
        return _TaskEvaluation(step, outputs)
    smoothness = None
    if radius:
        step_fn = partial(smoothness_step, model=as_smart_model(model, task), divergence=task.divergence, radius=radius)
        # In standardised units, as trained: in the labels' units a large mean would cost the differences precision.
        divergences = over_split(step_fn, unfold_heads(params, task.scales))
        smoothness = float(divergences.mean(dtype=np.float64))
    metrics_fn = partial(_metrics, task)
    metrics = metrics_fn(outputs, examples.labels)
    return _TaskEvaluation(
        step, outputs, smoothness, metrics, bootstrap_intervals(metrics_fn, outputs, examples.labels)
    )


def _metrics(task: Task, outputs: np.ndarray, labels: np.ndarray) -> Metrics:
    """The task's metrics and, for classes, the calibration error."""
    if task.schema.is_score:
        return task.metrics(outputs, labels)
    return task.metrics(outputs, labels) | {"calibration_error": expected_calibration_error(outputs, labels)}


def _changed_data(run: FinishedRun, inputs: Inputs) -> list[str]:
    """A warning for each task if its data have changed since the run."""
    warnings = []
    for name, task_data in inputs.data.items():
        trained_on = run.result["datasets"][name]["fingerprint"]
        if task_data.dataset.fingerprint != trained_on:
            warnings.append(f"the data of {name} differ from those of the run, {trained_on}")
    return warnings


def _table_cells(evaluation: _TaskEvaluation, radius: float) -> dict[str, str]:
    """The smoothness, and each metric with its interval, as text by column."""
    cells = {}
    if evaluation.smoothness is not None:
        cells[f"smoothness at {radius:g}"] = f"{evaluation.smoothness:.3g}"
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals[name]
        cells[name] = f"{value:.4f} [{low:.3f}, {high:.3f}]"
    return cells


def _write_files(workdir: Path, task_data: TaskData, split: str, evaluation: _TaskEvaluation, layout: str) -> list[str]:
    """Writes a task's predictions and, with labels, its plot; returns lines to print about them."""
    task, dataset, examples = task_data.task, task_data.dataset, task_data.examples[split]
    path = workdir / f"predictions-{task.name}-{split}.csv"
    write_text(path, prediction_files.FORMATS[layout](task, examples.ids, evaluation.outputs))
    notes = [f"{task.name}: labels are {dataset.labels}", f"predictions in {path}"]
    if split in dataset.unlabelled:
        return [*notes, f"{task.name}: {split} has no labels, so only predictions were written"]
    path = workdir / f"plot-{task.name}-{split}.png"
    score = evaluation.metrics[task.main_metric]
    title = f"{task.name}, {split}: {task.main_metric.replace('_', ' ')} {score:.3f}"
    save_figure(path, _plot(task, evaluation.outputs, examples.labels, title))
    return [*notes, f"plot in {path}"]


def _plot(task: Task, outputs: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    if task.schema.is_score:
        return plots.scatter(outputs[:, 0], labels, title)
    return plots.confusion_matrix(outputs, labels, task.schema.label_names, title)
