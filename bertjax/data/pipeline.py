"""From a run's config to its inputs: the tasks, their tokenised data and the model."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bertjax.config import RunConfig
from bertjax.data.batching import optimal_bucket_boundaries
from bertjax.data.dataset import Dataset, load_or_prepare, subsample_train
from bertjax.data.glue import GLUE, load_glue
from bertjax.data.problems import MAX_SHOWN, Problem, collecting, raise_if_any
from bertjax.data.sources import SOURCES, CourseFiles, OwnFile, Source
from bertjax.data.tokenize import TokenizedExamples, tokenize
from bertjax.errors import UserError
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.encoder import Encoder
from bertjax.models.families import build_encoder
from bertjax.pretrained import read_model_config, resolve_checkpoint
from bertjax.pretrained.tokenizer import check_tokenizer_fits, load_tokenizer
from bertjax.tasks import Task, classification_task, get_task, regression_task, with_scale

MAX_BUCKETS = 8
"""Maximum number of batch shapes of a task: each costs a compilation, and each further one saves less padding."""
OWN_TASK = "data_file"
"""Name of the task that --config.data_file declares."""


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task and its data.

    Attributes:
      task: the task.
      dataset: its prepared data.
      examples: its tokenised splits.
      bucket_boundaries: the lengths to which batches of these splits are padded.
    """

    task: Task
    dataset: Dataset
    examples: Mapping[str, TokenizedExamples]
    bucket_boundaries: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """The data's entry in result.json: source, kind of labels, rows per split and skipped rows."""
        scale = {} if self.task.scale is None else {"label_scale": dataclasses.asdict(self.task.scale)}
        return {
            "name": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "labels": self.dataset.labels,
            "label_names": list(self.task.schema.label_names),
            **scale,
            "rows": {split: len(examples) for split, examples in self.dataset.splits.items()},
            "skipped": list(self.dataset.skipped),
        }


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of a run or of its evaluation, except parameters.

    Attributes:
      data: the data of each task, by name.
      folder: folder of the checkpoint.
      model: the model, with a head for each task.
    """

    data: Mapping[str, TaskData]
    folder: Path
    model: Encoder

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the config's order."""
        return tuple(part.task for part in self.data.values())

    @property
    def scales(self) -> dict[str, LabelScale]:
        """The label scales of the tasks that have one, by task."""
        return {task.name: task.scale for task in self.tasks if task.scale is not None}

    def with_scales(self, scales: Mapping[str, LabelScale]) -> "Inputs":
        """The same inputs, with these label scales for their tasks of scores."""
        data = {
            name: dataclasses.replace(part, task=with_scale(part.task, scales[name])) if name in scales else part
            for name, part in self.data.items()
        }
        return dataclasses.replace(self, data=data)

    @property
    def warnings(self) -> list[str]:
        """The datasets' warnings, one line each."""
        return [line for part in self.data.values() for line in part.dataset.warnings]


def load_inputs(config: RunConfig, source: str | Path, splits: Sequence[str]) -> Inputs:
    """Loads the data, the tokenizer and the architecture of a run.

    Args:
      config: the run's config.
      source: checkpoint with the architecture and the vocabulary, see `resolve_checkpoint`.
      splits: names of the splits to load.

    Raises:
      BadData: reports everything that is wrong with the files of all tasks.
      UserError: a part cannot be loaded, a split does not exist, or `max_length` does not fit.
    """
    tasks = declared_tasks(config)
    # Data come before the checkpoint, which may be a download, so mistakes in them are reported at once.
    datasets = load_datasets(tasks, config)
    for dataset in datasets:
        for split in splits:
            if split not in dataset.splits:
                raise UserError(f"--split: {dataset.name} has {', '.join(dataset.splits)}, found {split!r}")
    folder = resolve_checkpoint(source)
    architecture = read_model_config(folder)
    max_positions = architecture.max_length
    if config.max_length > max_positions:
        raise UserError(
            f"--config.max_length: expected at most the model's {max_positions} positions, found {config.max_length}"
        )
    if config.max_length < 5 and any(len(task.schema.texts) == 2 for task in tasks):
        raise UserError(f"--config.max_length: expected at least 5 tokens for pairs, found {config.max_length}")
    tokenizer = load_tokenizer(folder)
    check_tokenizer_fits(tokenizer, architecture, folder)
    # A step that takes a batch of every task is compiled for each combination of their shapes.
    max_buckets = 1 if config.pcgrad else MAX_BUCKETS
    data = {}
    for task, whole in zip(tasks, datasets, strict=True):
        dataset = subsample_train(whole, config.train_share, config.seed)
        examples = {split: tokenize(dataset.splits[split], tokenizer, max_length=config.max_length) for split in splits}
        lengths = np.concatenate([part.lengths for part in examples.values()])
        boundaries = optimal_bucket_boundaries(lengths, max_buckets=max_buckets, max_length=max_positions)
        data[task.name] = TaskData(task, dataset, examples, boundaries)
    heads = {task.name: task.num_outputs for task in tasks}
    return Inputs(data, folder, build_encoder(architecture, heads, dtype=jnp.dtype(config.dtype), remat=config.remat))


def declared_tasks(config: RunConfig) -> list[Task]:
    """The tasks that a config names, or the one that its data_file declares."""
    if config.data_file is not None:
        columns = config.columns
        texts = (columns.text,) if columns.text_pair is None else (columns.text, columns.text_pair)
        if columns.classes is not None:
            return [classification_task(OWN_TASK, texts, columns.label, columns.classes)]
        low, high = columns.range or ()
        return [regression_task(OWN_TASK, texts, columns.label, low, high)]
    names = config.tasks or (config.task,)
    weights = config.task_weights or (1.0,) * len(names)
    return [dataclasses.replace(get_task(name), weight=w) for name, w in zip(names, weights, strict=True)]


def load_datasets(tasks: Sequence[Task], config: RunConfig) -> list[Dataset]:
    """Loads the data of tasks and reports skipped rows on stderr.

    Raises:
      BadData: reports everything that is wrong with the files of all tasks.
      UserError: see `load_or_prepare`.
    """
    datasets = []
    problems: list[Problem] = []
    for task in tasks:
        with collecting(problems):
            datasets.append(load_dataset(task, config))
    raise_if_any(problems)
    for dataset in datasets:
        for line in dataset.skipped[:MAX_SHOWN]:
            print(f"skipped: {line}", file=sys.stderr)
        if dataset.skipped:
            print(f"skipped: {len(dataset.skipped)} rows of {dataset.name} in total", file=sys.stderr)
    return datasets


def load_dataset(task: Task, config: RunConfig) -> Dataset:
    """Loads a task's data from where the config says; see `load_or_prepare` for errors."""
    data_dir = None if config.data_dir is None else user_path(config.data_dir)
    names = config.tasks or (task.name,)
    if data_dir is not None and not any(isinstance(SOURCES.get(name), CourseFiles) for name in names):
        raise UserError(
            f"--config.data_dir: {task.name} takes no files of yours, found {data_dir}; "
            "drop the flag, or pass --config.task=sst5 to read gold labels from that folder"
        )
    if task.name in GLUE:
        return load_glue(task.name, task.schema)
    if task.name == OWN_TASK:
        assert config.data_file is not None
        dev_file = None if config.dev_file is None else user_path(config.dev_file)
        source: Source = OwnFile(user_path(config.data_file), config.columns.id, dev_file)
    else:
        source = SOURCES[task.name]
    return load_or_prepare(task.name, source, task.schema, data_dir=data_dir, on_bad_row=config.on_bad_row)
