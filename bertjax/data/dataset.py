"""Datasets as TFDS builders: prepared once into array_record files, then read back without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import io
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds

from bertjax.data import leakage, tsv
from bertjax.data.problems import BadData, Problem
from bertjax.data.sources import Source
from bertjax.errors import UserError
from bertjax.files.atomic import cached_folder
from bertjax.files.paths import cache_dir
from bertjax.tasks import Schema

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that is ready to be read.

    Attributes:
      name: name of the dataset.
      fingerprint: sixteen hexadecimal digits of a hash of everything the examples are made from, or the name and
        version that TFDS pins.
      labels: what the labels are, for readers of a result.
      splits: examples by split, in the order of their source, read on access: {"id": str, "text": str,
        "label": int or float}, with "text_pair" for pairs. Labels of an unlabelled split are −1 or NaN.
      skipped: for each skipped row a line that says where it is and what is wrong with it.
      unlabelled: names of the splits without labels.
      warnings: lines from `leakage.dataset_warnings`.
    """

    name: str
    fingerprint: str
    labels: str
    splits: Mapping[str, Sequence[Example]]
    skipped: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_or_prepare(
    name: str, source: Source, schema: Schema, *, data_dir: Path | None = None, on_bad_row: str = "error"
) -> Dataset:
    """Loads a dataset from the cache, after preparing it there the first time.

    Prepared files are stored under a hash of their sources, so edited data are never read stale. Several processes may
    prepare the same dataset at once.

    Args:
      name: name of the task.
      source: source of the rows.
      schema: columns of the rows.
      data_dir: folder of the dataset's files, for a source that needs them.
      on_bad_row: `error`, or `skip` to leave out bad rows and list them in `skipped`.

    Raises:
      BadData: reports everything that is wrong with the files.
      UserError: any other problem that the user can fix.
    """
    files = source.find(name, data_dir)
    fingerprint = _fingerprint(source, schema, files, on_bad_row)
    folder = cache_dir() / "datasets" / name / fingerprint
    arguments: dict[str, Any] = {"source": source, "schema": schema, "files": files, "on_bad_row": on_bad_row}
    if not folder.is_dir():
        with cached_folder(folder) as unfinished:
            _prepare(LabelledTexts(**arguments, data_dir=unfinished))
    builder = LabelledTexts(**arguments, data_dir=folder)
    return Dataset(
        name=name,
        fingerprint=fingerprint,
        labels=source.labels,
        splits={split: LazyExamples(builder.as_data_source(split), to_python) for split in builder.info.splits},
        skipped=tuple(builder.info.metadata["skipped"]),
        unlabelled=tuple(builder.info.metadata["unlabelled"]),
        warnings=tuple(f"{name}: {line}" for line in builder.info.metadata["warnings"]),
    )


class LabelledTexts(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of texts or pairs of texts, each with a class or a score."""

    VERSION = tfds.core.Version("1.1.0")

    def __init__(
        self, *, source: Source, schema: Schema, files: Mapping[str, Path], on_bad_row: str = "error", **kwargs: Any
    ):
        """Takes the arguments of `load_or_prepare`, the source's files, and TFDS's own arguments."""
        self._source, self._schema, self._files, self._on_bad_row = source, schema, files, on_bad_row
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        names = self._schema.label_names
        text = {"text": tfds.features.Text()}
        pair = {"text_pair": tfds.features.Text()} if len(self._schema.texts) == 2 else {}
        label = tfds.features.ClassLabel(names=names) if names else tfds.features.Scalar(np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"id": tfds.features.Text(), **text, **pair, "label": label}),
            metadata=tfds.core.MetadataDict(skipped=[], unlabelled=[], warnings=[]),
            # Predictions keep the order of the source; training shuffles by itself.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
        splits, skipped = self._source.read(self._files, self._schema, self._on_bad_row)
        self.info.metadata["skipped"] = skipped
        self.info.metadata["unlabelled"] = [
            split for split, rows in splits.items() if any(row.label is None for row in rows)
        ]
        self.info.metadata["warnings"] = leakage.dataset_warnings(splits, self._schema)
        return {split: self._generate_examples(rows) for split, rows in splits.items() if rows}

    def _generate_examples(self, rows: Sequence[tsv.Row]) -> Iterator[tuple[int, Example]]:
        no_label = math.nan if self._schema.is_score else -1
        for i, row in enumerate(rows):
            texts = dict(zip(("text", "text_pair"), row.texts, strict=False))
            yield i, {"id": row.id, **texts, "label": no_label if row.label is None else row.label}


def _fingerprint(source: Source, schema: Schema, files: Mapping[str, Path], on_bad_row: str) -> str:
    # Paths are left out: a moved file has the same content.
    settings = {name: value for name, value in vars(source).items() if not isinstance(value, Path)}
    about = type(source).__name__, settings, str(LabelledTexts.VERSION), schema, on_bad_row, tuple(files)
    digest = hashlib.sha256(repr(about).encode())
    for path in files.values():
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            what = f"expected a readable file, found: {error.strerror}"
            raise BadData([Problem(str(path), None, what, "check the path")]) from None
    return digest.hexdigest()[:16]


def _prepare(builder: LabelledTexts) -> None:
    # TFDS prints its progress to stdout, where predictions may go, and shows bars for a second's work.
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except RuntimeError as error:  # raised by array_record on a full disk
        reason = str(error).partition("; ")[0]
        raise UserError(
            f"{builder.data_dir}: the prepared data cannot be written ({reason}); free space, or set BERTJAX_CACHE to "
            "a folder that has it"
        ) from error


class LazyExamples(Sequence[Example]):
    """The records of a TFDS data source as a sequence of examples, each read and converted on access."""

    def __init__(self, source: Any, to_example: Callable[[Mapping[str, Any]], Example]):
        """Takes the data source and a function from one of its records to an example."""
        self._source, self._to_example = source, to_example

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._to_example(record) for record in self._source.__getitems__(range(len(self))[index])]
        # Indexing a range checks the bounds and resolves negative indices.
        return self._to_example(self._source[range(len(self))[operator.index(index)]])

    def __iter__(self) -> Iterator[Example]:
        return iter(self[:])


def to_python(record: Mapping[str, Any]) -> Example:
    """Converts a TFDS record's bytes and NumPy scalars to plain Python values."""
    return {
        name: value.decode() if isinstance(value, bytes) else np.asarray(value).item() for name, value in record.items()
    }


def subsample_train(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Keeps a random share of the training examples, at least one; other splits stay whole.

    The examples stay in the order of their source. For one seed, a smaller share is a subset of a larger one, and all
    tasks draw by the same rule.

    Args:
      dataset: has a split "train".
      share: in (0, 1].
      seed: in [0, 2**32).
    """
    if share == 1:
        return dataset
    train = dataset.splits["train"]
    # The 1 separates this stream from all others that the seed decides.
    order = np.random.default_rng((seed, 1)).permutation(len(train))
    rows = np.sort(order[: max(1, round(share * len(train)))])
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": [train[int(row)] for row in rows]})
