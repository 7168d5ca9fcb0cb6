"""From a run's config to what it computes on: the tasks, their tokenised data and the model."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bertjax.config import RunConfig
from bertjax.data.batching import optimal_bucket_boundaries
from bertjax.data.dataset import Dataset, load, with_train_share
from bertjax.data.glue import GLUE, load_glue
from bertjax.data.problems import SHOWN, Problem, gathered, refuse
from bertjax.data.sources import SOURCES, CourseFiles, OwnFile, Source
from bertjax.data.tokenize import TokenizedExamples, tokenize
from bertjax.errors import UserError
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.bert import Bert
from bertjax.pretrained import read_model_config, resolve
from bertjax.pretrained.tokenizer import check_vocabulary, load_tokenizer
from bertjax.tasks import Task, classification_task, get_task, regression_task, with_scale

MAX_BUCKETS = 8
"""Batch shapes of a task: each costs a compilation, and each further one saves less padding."""


OWN = "data_file"


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task and its data.

    Attributes:
      task: the task.
      dataset: its data as prepared.
      examples: its splits, tokenised.
      bucket_boundaries: the lengths to which batches of these splits are padded.
    """

    task: Task
    dataset: Dataset
    examples: Mapping[str, TokenizedExamples]
    bucket_boundaries: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run, or an evaluation of one, computes on.

    Attributes:
      data: by the tasks' names.
      folder: of the checkpoint.
      model: the architecture, with a head for each task.
    """

    data: Mapping[str, TaskData]
    folder: Path
    model: Bert

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the config's order."""
        return tuple(part.task for part in self.data.values())

    @property
    def scales(self) -> dict[str, LabelScale]:
        """The label scales of tasks of scores, by task."""
        return {task.name: task.scale for task in self.tasks if task.scale is not None}

    def with_scales(self, scales: Mapping[str, LabelScale]) -> "Inputs":
        """The same inputs, with scores learnt by these scales, or read as the run that is evaluated learnt them."""
        data = {
            name: dataclasses.replace(part, task=with_scale(part.task, scales[name])) if name in scales else part
            for name, part in self.data.items()
        }
        return dataclasses.replace(self, data=data)

    @property
    def warnings(self) -> list[str]:
        """Lines about data that leave scores worth less."""
        return [line for part in self.data.values() for line in part.dataset.warnings]


def load_inputs(config: RunConfig, source: str | Path, splits: Sequence[str]) -> Inputs:
    """Loads everything but parameters.

    Args:
      config: the run's.
      source: of the architecture and the vocabulary, as `pretrained.resolve` takes it.
      splits: of the data.

    Raises:
      BadData: with all that is wrong with the files of all tasks.
      UserError: from any of the parts, or a split or a length that is not to be had.
    """
    tasks = declared_tasks(config)
    # Before the checkpoint, which may be a download: a mistake here is told at once.
    datasets = load_datasets(tasks, config)
    for dataset in datasets:
        for split in splits:
            if split not in dataset.splits:
                raise UserError(f"--split: {dataset.name} has {', '.join(dataset.splits)}, found {split!r}")
    folder = resolve(source)
    architecture = read_model_config(folder)
    most = architecture.max_position_embeddings
    if config.max_length > most:
        raise UserError(
            f"--config.max_length: expected at most the model's {most} positions, found {config.max_length}"
        )
    if config.max_length < 5 and any(len(task.schema.texts) == 2 for task in tasks):
        raise UserError(f"--config.max_length: expected at least 5 tokens for pairs, found {config.max_length}")
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, architecture.vocab_size, folder)
    # Steps that take a batch of every task are compiled for each combination of their shapes.
    max_buckets = 1 if config.pcgrad else MAX_BUCKETS
    data = {}
    for task, whole in zip(tasks, datasets, strict=True):
        dataset = with_train_share(whole, config.train_share, config.seed)
        examples = {split: tokenize(dataset.splits[split], tokenizer, max_length=config.max_length) for split in splits}
        lengths = np.concatenate([part.lengths for part in examples.values()])
        bucket_boundaries = tuple(
            min(edge, most) for edge in optimal_bucket_boundaries(lengths, max_buckets=max_buckets)
        )
        data[task.name] = TaskData(task, dataset, examples, bucket_boundaries)
    heads = {task.name: task.num_outputs for task in tasks}
    return Inputs(data, folder, Bert(architecture, heads, dtype=jnp.dtype(config.dtype), remat=config.remat))


def declared_tasks(config: RunConfig) -> list[Task]:
    """The tasks that a config names, or that of its own file."""
    if config.data_file is not None:
        columns = config.columns
        texts = (columns.text,) if columns.text_pair is None else (columns.text, columns.text_pair)
        if columns.classes is not None:
            return [classification_task(OWN, texts, columns.label, columns.classes)]
        low, high = columns.range or ()
        return [regression_task(OWN, texts, columns.label, low, high)]
    names = config.tasks or (config.task,)
    weights = config.task_weights or (1.0,) * len(names)
    return [dataclasses.replace(get_task(name), weight=w) for name, w in zip(names, weights, strict=True)]


def load_datasets(tasks: Sequence[Task], config: RunConfig) -> list[Dataset]:
    """The data of tasks; on stderr it tells of rows that were skipped.

    Raises:
      BadData: with all that is wrong with the files of all tasks.
      UserError: as of `builders.load`.
    """
    datasets = []
    problems: list[Problem] = []
    for task in tasks:
        with gathered(problems):
            datasets.append(load_dataset(task, config))
    refuse(problems)
    for dataset in datasets:
        for reason in dataset.skipped[:SHOWN]:
            print(f"skipped: {reason}", file=sys.stderr)
        if dataset.skipped:
            print(f"skipped: {len(dataset.skipped)} in all of {dataset.name}", file=sys.stderr)
    return datasets


def load_dataset(task: Task, config: RunConfig) -> Dataset:
    """A task's data, as the config says where they are; UserError as of `builders.load`."""
    data_dir = _path(config.data_dir)
    names = config.tasks or (task.name,)
    if data_dir is not None and not any(isinstance(SOURCES.get(name), CourseFiles) for name in names):
        raise UserError(
            f"--config.data_dir: {task.name} takes no files of yours, found {data_dir}; "
            "drop the flag, or pass --config.task=sst5 to read gold labels from that folder"
        )
    if task.name in GLUE:
        return load_glue(task.name, task.schema)
    if task.name == OWN:
        file = _path(config.data_file)
        assert file is not None
        source: Source = OwnFile(file, config.columns.id, _path(config.dev_file))
    else:
        source = SOURCES[task.name]
    return load(task.name, source, task.schema, data_dir=data_dir, on_bad_row=config.on_bad_row)


def _path(name: str | None) -> Path | None:
    return None if name is None else user_path(name)
