"""Datasets as TFDS builders, prepared once into array_record files and read back without TensorFlow."""

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
    """A dataset, ready to be read.

    Attributes:
      name: the dataset's.
      fingerprint: sixteen hexadecimal digits of a hash of all that the examples are made from, or the name and version
        that TFDS pins.
      labels: what its labels are, for whoever reads a result.
      splits: by name, the examples in the order of their source, read when asked for: {"id": str, "text": str,
        "label": int or float}, with "text_pair" for pairs. In a split without labels, they are −1 or NaN.
      skipped: a line for each row left out: where it stands and what is wrong with it.
      unlabelled: the splits without labels.
      warnings: lines about what is no error but leaves scores worth less, as `sanity.warnings` gives them.
    """

    name: str
    fingerprint: str
    labels: str
    splits: Mapping[str, Sequence[Example]]
    skipped: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load(
    name: str, source: Source, schema: Schema, *, data_dir: Path | None = None, on_bad_row: str = "error"
) -> Dataset:
    """Loads a dataset, which is prepared in the cache the first time.

    The prepared files stand under the hash of their sources, so edited data are never read stale, and processes
    may prepare the same dataset at the same time.

    Args:
      name: the task's.
      source: of the rows.
      schema: of the rows.
      data_dir: the folder of the dataset's files, for a source that needs them.
      on_bad_row: `error`, or `skip`, which goes on without bad rows and lists them in `skipped`.

    Raises:
      BadData: with all that is wrong with the files.
      UserError: something else that the user can put right.
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
        splits={split: Records(builder.as_data_source(split), plain) for split in builder.info.splits},
        skipped=tuple(builder.info.metadata["skipped"]),
        unlabelled=tuple(builder.info.metadata["unlabelled"]),
        warnings=tuple(f"{name}: {line}" for line in builder.info.metadata["warnings"]),
    )


class LabelledTexts(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Texts or pairs of texts, each with a class or a score."""

    VERSION = tfds.core.Version("1.1.0")

    def __init__(
        self, *, source: Source, schema: Schema, files: Mapping[str, Path], on_bad_row: str = "error", **kwargs: Any
    ):
        """Takes where the rows are and what they hold, what to do about a bad row, and TFDS's own arguments."""
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
            # The order of the source, which predictions then share; training has its own shuffle.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
        splits, skipped = self._source.read(self._files, self._schema, self._on_bad_row)
        self.info.metadata["skipped"] = skipped
        self.info.metadata["unlabelled"] = [
            name for name, examples in splits.items() if any(r.label is None for r in examples)
        ]
        self.info.metadata["warnings"] = leakage.dataset_warnings(splits, self._schema)
        return {split: self._generate_examples(examples) for split, examples in splits.items() if examples}

    def _generate_examples(self, examples: Sequence[tsv.Row]) -> Iterator[tuple[int, Example]]:
        none = math.nan if self._schema.is_score else -1
        for i, row in enumerate(examples):
            texts = dict(zip(("text", "text_pair"), row.texts, strict=False))
            yield i, {"id": row.id, **texts, "label": none if row.label is None else row.label}


def _fingerprint(source: Source, schema: Schema, files: Mapping[str, Path], on_bad_row: str) -> str:
    # Where files lie says nothing of what they hold.
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
    # TFDS tells of its progress on stdout, where predictions may go, and draws bars for what takes a second.
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except RuntimeError as error:  # array_record's own, of a full disk
        reason = str(error).partition("; ")[0]
        raise UserError(
            f"{builder.data_dir}: the prepared data cannot be written ({reason}); free space, or set BERTJAX_CACHE to "
            "a folder that has it"
        ) from error


class Records(Sequence[Example]):
    """A TFDS data source as a sequence of examples."""

    def __init__(self, source: Any, convert: Callable[[Mapping[str, Any]], Example]):
        """Takes the source and what makes an example of one of its records."""
        self._source, self._convert = source, convert

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._convert(record) for record in self._source.__getitems__(range(len(self))[index])]
        # range refuses what is out of range, and counts from the end.
        return self._convert(self._source[range(len(self))[operator.index(index)]])

    def __iter__(self) -> Iterator[Example]:
        return iter(self[:])


def plain(record: Mapping[str, Any]) -> Example:
    """A record of prepared data in plain Python values."""
    return {
        name: value.decode() if isinstance(value, bytes) else np.asarray(value).item() for name, value in record.items()
    }


def with_train_share(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The dataset with a share of its training examples, at least one; other splits are left whole.

    The examples stay in the order of their source. Of one seed, what a smaller share draws is part of what a larger one
    draws; of several tasks each draws alike.

    Args:
      dataset: with a split "train".
      share: in (0, 1].
      seed: in [0, 2**32).
    """
    if share == 1:
        return dataset
    train = dataset.splits["train"]
    # Apart from all else that the seed decides.
    order = np.random.default_rng((seed, 1)).permutation(len(train))
    rows = np.sort(order[: max(1, round(share * len(train)))])
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": [train[int(row)] for row in rows]})
