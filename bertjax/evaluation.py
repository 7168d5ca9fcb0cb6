"""Evaluation: logits for every example of a split, once each, and what is said of a finished run by them."""

import csv
import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax import report
from bertjax.checkpoint import Checkpoints
from bertjax.config import read_config
from bertjax.data.batches import eval_batches
from bertjax.data.builders import Dataset
from bertjax.data.text import Examples
from bertjax.errors import UserError
from bertjax.inputs import Inputs, load_inputs
from bertjax.model import init_params
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.step import Params, eval_step
from bertjax.workdir import read_json, write_json, write_text


class Evaluator:
    """Predicts splits with one task's head; each batch shape is compiled once."""

    def __init__(self, inputs: Inputs, parallel: DataParallel):
        self._parallel = parallel
        step = partial(eval_step, model=inputs.model, task=inputs.task)
        self._step = CompiledByShape(parallel.map_eval(step))
        self._pad_id = inputs.model.config.pad_token_id

    def predict(self, params: Params, examples: Examples, *, batch_size: int, edges: Sequence[int]) -> np.ndarray:
        """Logits of every example, in the split's order: float32 [N, C]; `params` are replicated."""
        found, places = [], []
        for batch in eval_batches(examples, batch_size=batch_size, edges=edges, pad_id=self._pad_id):
            logits = self._parallel.gather(self._step(params, self._parallel.shard(batch)))
            found.append(logits[batch["valid"]])
            places.append(batch["index"][batch["valid"]])
        order = np.concatenate(places)
        logits = np.concatenate(found)
        predictions = np.empty_like(logits)
        predictions[order] = logits
        return predictions


def evaluate(workdir: Path, split: str, checkpoint: str = "final") -> dict[str, Any]:
    """Evaluates a finished run's checkpoint on a split.

    Writes `eval-SPLIT.json` and `predictions-TASK-SPLIT.csv` (id, predicted label, class probabilities) into
    the folder and prints a table.

    Args:
      workdir: of a finished run.
      split: train, dev or test.
      checkpoint: "final", or "best" by the task's main metric on dev.

    Returns:
      What eval-SPLIT.json holds.

    Raises:
      UserError: no finished run there, or no such split.
    """
    config = read_config(read_json(workdir / "config.json", "a run"))
    result = read_json(workdir / "result.json", "a finished run")
    encoder = workdir / "encoder"
    if not encoder.is_dir():
        raise UserError(f"{encoder}: expected the run's architecture and vocabulary, found no such folder")
    parallel = DataParallel(jax.devices())
    parallel.check_batch_size(config.batch_size)
    inputs = load_inputs(config, encoder, (split,))
    task, dataset, examples = inputs.task, inputs.dataset, inputs.examples[split]
    step = result["steps"] if checkpoint == "final" else result["dev"][task.name]["best"]["step"]

    trained_on = result["datasets"][task.name]["fingerprint"]
    if dataset.fingerprint != trained_on:
        print(f"warning: the data of {task.name} are not those of the run, {trained_on}", file=sys.stderr)
    like = jax.eval_shape(partial(init_params, model=inputs.model), jax.random.key(0))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        params = parallel.replicate(checkpoints.restore_params(step, like))
    logits = Evaluator(inputs, parallel).predict(params, examples, batch_size=config.batch_size, edges=inputs.edges())
    values = task.metrics(logits, examples.labels)
    summary = {
        "split": split,
        "checkpoint": checkpoint,
        "step": step,
        "datasets": {task.name: describe_data(dataset)},
        "lineage": result["lineage"],
        "metrics": {task.name: values},
    }
    write_json(workdir / f"eval-{split}.json", summary)
    predictions = workdir / f"predictions-{task.name}-{split}.csv"
    write_text(predictions, _predictions_csv(examples.ids, logits, dataset.label_names))
    row = {"task": task.name, "split": split, "checkpoint": checkpoint, "step": step, "rows": len(examples)}
    print(report.table([row | values]))
    print(f"{task.name}: labels are {dataset.labels}")
    print(f"predictions in {predictions}")
    return summary


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What a result says of the data: name, fingerprint, nature of the labels, rows by split, rows left out."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "labels": dataset.labels,
        "rows": {split: len(examples) for split, examples in dataset.splits.items()},
        "skipped": list(dataset.skipped),
    }


def _predictions_csv(ids: Sequence[str], logits: np.ndarray, label_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "predicted", *label_names])
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    for name, row in zip(ids, exp / exp.sum(axis=-1, keepdims=True), strict=True):
        writer.writerow([name, label_names[row.argmax()], *(f"{p:.6f}" for p in row)])
    return text.getvalue()
