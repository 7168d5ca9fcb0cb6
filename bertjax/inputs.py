"""From a run's config to what it computes on: the task, the tokenised data and the model."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bertjax.config import RunConfig
from bertjax.data import builders
from bertjax.data.batches import bucket_edges
from bertjax.data.text import Examples, check_vocabulary, load_tokenizer, tokenize
from bertjax.errors import UserError
from bertjax.model import Bert
from bertjax.pretrained import read_config as read_bert_config
from bertjax.pretrained import resolve
from bertjax.tasks import Task, get_task

MAX_BUCKETS = 6
"""Batch shapes of a run: each costs a compilation, and each further one saves less padding."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run, or an evaluation of one, computes on.

    Attributes:
      task: the task.
      dataset: its data as prepared.
      examples: its splits, tokenised.
      folder: of the checkpoint.
      model: the architecture, with the task's head.
    """

    task: Task
    dataset: builders.Dataset
    examples: Mapping[str, Examples]
    folder: Path
    model: Bert

    def edges(self) -> tuple[int, ...]:
        """The lengths to which batches of these splits are padded."""
        lengths = np.concatenate([examples.lengths for examples in self.examples.values()])
        most = self.model.config.max_position_embeddings
        return tuple(min(edge, most) for edge in bucket_edges(lengths, max_buckets=MAX_BUCKETS))


def load_inputs(config: RunConfig, source: str | Path, splits: tuple[str, ...]) -> Inputs:
    """Loads everything but parameters.

    Args:
      config: the run's.
      source: of the architecture and the vocabulary, as `pretrained.resolve` takes it.
      splits: of the data.

    Raises:
      UserError: from any of the parts, or a split or a length that is not to be had.
    """
    task = get_task(config.task)
    # Before the checkpoint, which may be a download: a mistake here is told at once.
    data_dir = None if config.data_dir is None else Path(config.data_dir).expanduser()
    dataset = builders.load(config.task, data_dir=data_dir, on_bad_row=config.on_bad_row)
    for reason in dataset.skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    for split in splits:
        if split not in dataset.splits:
            raise UserError(f"--split: {config.task} has {', '.join(dataset.splits)}, found {split!r}")
    folder = resolve(source)
    architecture = read_bert_config(folder)
    if config.max_length > architecture.max_position_embeddings:
        raise UserError(
            f"--config.max_length: expected at most the model's {architecture.max_position_embeddings} positions, "
            f"found {config.max_length}"
        )
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, architecture.vocab_size, folder)
    examples = {split: tokenize(dataset.splits[split], tokenizer, max_length=config.max_length) for split in splits}
    model = Bert(architecture, {task.name: task.outputs}, dtype=jnp.dtype(config.dtype))
    return Inputs(task, dataset, examples, folder, model)
