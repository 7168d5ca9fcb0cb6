"""Evaluation: logits for every example of a split, once each, and what is said of a finished run by them."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax import report
from bertjax.checkpoint import Checkpoints
from bertjax.config import is_pretraining, read_config
from bertjax.data.batches import eval_batches, with_pooled
from bertjax.data.builders import Dataset
from bertjax.data.text import Examples
from bertjax.errors import UserError
from bertjax.inputs import load_inputs
from bertjax.metrics import log_softmax
from bertjax.model import init_params
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.step import Params, eval_step
from bertjax.tasks import Task
from bertjax.workdir import read_json, write_json, write_text


class Predictor:
    """Runs a function of a batch over whole splits; each batch shape is compiled once."""

    def __init__(self, step: Callable[..., jax.Array], parallel: DataParallel, pad_id: int):
        """Takes `step(params, batch)`, which gives [B, C], the devices, and the token id of padding."""
        self._parallel, self._pad_id = parallel, pad_id
        self._step = CompiledByShape(parallel.map_eval(step))

    def predict(
        self,
        params: Params,
        examples: Examples,
        *,
        batch_size: int,
        edges: Sequence[int],
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """What `step` gives for every example, in the split's order: [N, C].

        Args:
          params: replicated.
          examples: the split.
          batch_size: B.
          edges: from `bucket_edges`.
          pooled: [N, D], what batches hold in place of tokens, or None.
        """
        found, places = [], []
        for batch in eval_batches(examples, batch_size=batch_size, edges=edges, pad_id=self._pad_id):
            valid, index = batch["valid"], batch["index"]
            batch = batch if pooled is None else with_pooled(pooled, batch)
            found.append(self._parallel.gather(self._step(params, self._parallel.shard(batch)))[valid])
            places.append(index[valid])
        outputs = np.concatenate(found)
        predictions = np.empty_like(outputs)
        predictions[np.concatenate(places)] = outputs
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
    values = read_json(workdir / "config.json", "a run")
    if is_pretraining(values):
        raise UserError(
            f"--workdir: {workdir} holds a run of further pre-training, which has no task; "
            f"fine-tune from it with --config.init_from={workdir}, and evaluate that run"
        )
    config = read_config(values)
    result = read_json(workdir / "result.json", "a finished run")
    encoder = workdir / "encoder"
    if not encoder.is_dir():
        raise UserError(f"{encoder}: expected the run's architecture and vocabulary, found no such folder")
    parallel = DataParallel(jax.devices())
    parallel.check_batch_size(config.batch_size)
    inputs = load_inputs(config, encoder, (split,))
    like = jax.eval_shape(partial(init_params, model=inputs.model), jax.random.key(0))
    summary: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "datasets": {name: describe_data(part.dataset, part.task) for name, part in inputs.data.items()},
        "lineage": result["lineage"],
        "steps": {},
        "metrics": {},
    }
    rows = []
    for name, part in inputs.data.items():
        examples = part.examples[split]
        trained_on = result["datasets"][name]["fingerprint"]
        if part.dataset.fingerprint != trained_on:
            print(f"warning: the data of {name} are not those of the run, {trained_on}", file=sys.stderr)
        step = result["steps"] if checkpoint == "final" else result["dev"][name]["best"]["step"]
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            params = parallel.replicate(checkpoints.restore_params(step, like))
        predictor = Predictor(
            partial(eval_step, model=inputs.model, task=part.task), parallel, inputs.model.config.pad_token_id
        )
        outputs = predictor.predict(params, examples, batch_size=config.batch_size, edges=part.edges)
        values = part.task.metrics(outputs, examples.labels)
        summary["steps"][name], summary["metrics"][name] = step, values
        predictions = workdir / f"predictions-{name}-{split}.csv"
        write_text(predictions, _predictions_csv(examples.ids, outputs, part.task.schema.label_names))
        about = {"task": name, "split": split, "checkpoint": checkpoint, "step": step, "rows": len(examples)}
        rows.append(about | values)
    write_json(workdir / f"eval-{split}.json", summary)
    print(report.table(rows))
    for name, part in inputs.data.items():
        print(f"{name}: labels are {part.dataset.labels}")
        print(f"predictions in {workdir / f'predictions-{name}-{split}.csv'}")
    return summary


def describe_data(dataset: Dataset, task: Task) -> dict[str, Any]:
    """What a result says of the data: where from, what its labels are, how many rows, which were left out."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "labels": dataset.labels,
        "label_names": list(task.schema.label_names),
        "rows": {split: len(examples) for split, examples in dataset.splits.items()},
        "skipped": list(dataset.skipped),
    }


def _predictions_csv(ids: Sequence[str], outputs: np.ndarray, label_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "predicted", *label_names])
    if not label_names:
        writer.writerows([name, f"{score:.6f}"] for name, score in zip(ids, outputs[:, 0], strict=True))
        return text.getvalue()
    for name, row in zip(ids, np.exp(log_softmax(outputs)), strict=True):
        writer.writerow([name, label_names[row.argmax()], *(f"{p:.6f}" for p in row)])
    return text.getvalue()
