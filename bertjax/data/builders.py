"""Datasets as TFDS builders, prepared once into array_record files and read back without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import io
import operator
import unicodedata
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, overload

import tensorflow_datasets as tfds

from bertjax import assets
from bertjax.data import rows
from bertjax.errors import UserError, nearest

Example = dict[str, Any]
SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset, ready to be read.

    Attributes:
      name: the dataset's.
      fingerprint: sixteen hexadecimal digits of a hash of all that the examples are made from.
      labels: what its labels are, for whoever reads a result.
      label_names: of the classes, in order.
      splits: by name, the examples in the order of their source, read when asked for:
        {"id": str, "text": str, "label": int}.
      skipped: a line for each row left out: where it stands and what is wrong with it.
    """

    name: str
    fingerprint: str
    labels: str
    label_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Example]]
    skipped: tuple[str, ...]


def load(name: str, *, data_dir: Path | None = None, on_bad_row: str = "error") -> Dataset:
    """Loads a dataset, which is prepared in the cache the first time.

    The prepared files stand under the hash of their sources, so edited data are never read stale, and processes
    may prepare the same dataset at the same time.

    Args:
      name: one of `DATASETS`.
      data_dir: the folder of the dataset's files, for one that needs them.
      on_bad_row: `error`, or `skip`, which goes on without bad rows and lists them in `skipped`.

    Raises:
      UserError: an unknown name, files that are missing or not asked for, or bad data.
    """
    if name not in DATASETS:
        raise UserError(f"data: expected one of {', '.join(DATASETS)}, found {name!r}{nearest(name, DATASETS)}")
    kind = DATASETS[name]
    files = kind.find(data_dir)
    fingerprint = _fingerprint(kind, files, on_bad_row)
    folder = assets.cache_dir() / "datasets" / name / fingerprint
    if not folder.is_dir():
        with assets.new_folder(folder) as unfinished:
            _prepare(kind(files=files, on_bad_row=on_bad_row, data_dir=unfinished))
    builder = kind(files=files, on_bad_row=on_bad_row, data_dir=folder)
    return Dataset(
        name=name,
        fingerprint=fingerprint,
        labels=kind.labels,
        label_names=kind.label_names,
        splits={split: _Examples(builder.as_data_source(split)) for split in builder.info.splits},
        skipped=tuple(builder.info.metadata["skipped"]),
    )


class SentenceClassification(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What the builders of one text and one class share."""

    VERSION = tfds.core.Version("1.0.0")
    labels: ClassVar[str]
    label_names: ClassVar[tuple[str, ...]] = SENTIMENTS

    def __init__(self, *, files: Mapping[str, Path], on_bad_row: str = "error", **kwargs: Any):
        """Takes the files from `find`, what to do about a bad row, and TFDS's own arguments."""
        self._files, self._on_bad_row = files, on_bad_row
        super().__init__(file_format="array_record", **kwargs)

    @classmethod
    @abstractmethod
    def find(cls, data_dir: Path | None) -> dict[str, Path]:
        """The dataset's source files; UserError where they are not to be had."""

    @abstractmethod
    def read(self) -> tuple[dict[str, list[rows.Row]], list[str]]:
        """The rows of each split, and why others were left out."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=self.label_names),
                }
            ),
            supervised_keys=("text", "label"),
            metadata=tfds.core.MetadataDict(skipped=[]),
            # The order of the source, which predictions then share; training has its own shuffle.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
        splits, skipped = self.read()
        self.info.metadata["skipped"] = skipped
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def _generate_examples(self, examples: Sequence[rows.Row]) -> Iterator[tuple[int, Example]]:
        for i, row in enumerate(examples):
            yield i, {"id": row.id, "text": row.texts[0], "label": row.label}


class RatedSst(SentenceClassification):
    """Movie-review sentences in five classes, from the mean rating of 20 people (Hutto and Gilbert, ICWSM 2014).

    A rating r from −4 to 4 becomes a class as `rating_class` cuts it:

        very negative  r ≤ −2       19.35 %
        negative       −2 < r ≤ −1  23.79 %
        neutral        −1 < r < 1   13.50 %
        positive       1 ≤ r < 2    22.73 %
        very positive  r ≥ 2        20.62 %

    The 10,605 sentences, 10,603 of them distinct, fall into 8,513 for train, 1,042 for dev and 1,050 for test by
    `split_of`, which keeps equal sentences together.

    These labels are not the Stanford Sentiment Treebank's, though the sentences are, those of its dev and test sets
    included: a score on gold SST after training on rated_sst is no score on unseen text.
    """

    labels = "mean ratings by 20 people, cut into five classes; not SST's gold labels"

    @classmethod
    def find(cls, data_dir: Path | None) -> dict[str, Path]:
        """The file of ratings, from the cache or the package index."""
        if data_dir is not None:
            raise UserError(
                f"--config.data_dir: rated_sst takes no files of yours, found {data_dir}; "
                "drop the flag, or pass --config.task=sst5 to read gold labels from that folder"
            )
        return {"ratings": assets.fetch("hutto-2014") / "movieReviewSnippets_GroundTruth.txt"}

    def read(self) -> tuple[dict[str, list[rows.Row]], list[str]]:
        """Cuts ratings into classes and sentences into splits."""
        rated, skipped = rows.read_ratings(self._files["ratings"], on_bad_row=self._on_bad_row)
        splits: dict[str, list[rows.Row]] = {"train": [], "dev": [], "test": []}
        for row in rated:
            splits[split_of(row.texts[0])].append(row._replace(label=rating_class(row.label)))
        return splits, [_named(reason, self._files["ratings"]) for reason in skipped]


class Sst5(SentenceClassification):
    """The Stanford Sentiment Treebank's sentences in five classes (Socher et al., EMNLP 2013), as CS224N's files."""

    labels = "SST's gold labels, as --config.data_dir has them"

    @classmethod
    def find(cls, data_dir: Path | None) -> dict[str, Path]:
        """ids-sst-train.csv, ids-sst-dev.csv and, if there with labels, ids-sst-test.csv."""
        if data_dir is None:
            raise UserError(
                "--config.data_dir: sst5 needs the folder of ids-sst-train.csv and ids-sst-dev.csv, found none; "
                "pass it, or use --config.task=rated_sst, which needs no files"
            )
        files = {split: data_dir / f"ids-sst-{split}.csv" for split in ("train", "dev", "test")}
        for split in ("train", "dev"):
            if not files[split].is_file():
                raise UserError(
                    f"--config.data_dir: expected the file {files[split]}, found none; "
                    "pass the folder that has it, or use --config.task=rated_sst, which needs no files"
                )
        if not (files["test"].is_file() and "sentiment" in rows.read_header(files["test"])):
            del files["test"]
        return files

    def read(self) -> tuple[dict[str, list[rows.Row]], list[str]]:
        """A split from each file."""
        splits, reasons = {}, []
        for split, path in self._files.items():
            splits[split], skipped = rows.read_rows(
                path,
                texts=("sentence",),
                label="sentiment",
                parse_label=rows.class_label(len(self.label_names)),
                on_bad_row=self._on_bad_row,
            )
            reasons += [_named(reason, path) for reason in skipped]
        return splits, reasons


DATASETS: Mapping[str, type[SentenceClassification]] = {"rated_sst": RatedSst, "sst5": Sst5}


def rating_class(rating: float) -> int:
    """The class of a mean rating from −4 to 4: cut at −2, −1, 1 and 2, each cut belonging to the outer class."""
    if rating <= -2:
        return 0
    if rating <= -1:
        return 1
    if rating < 1:
        return 2
    return 3 if rating < 2 else 4


def split_of(text: str) -> str:
    """The split that a text belongs to wherever it stands: train for eight in ten, dev for one, test for one.

    Texts that differ only in case, in spaces or in the form of a letter belong to the same one.
    """
    normal = " ".join(unicodedata.normalize("NFKC", text).split()).lower()
    tenth = int(hashlib.sha256(normal.encode()).hexdigest(), 16) % 10
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"


def _named(reason: str, path: Path) -> str:
    """A reason with the file's name for its path: prepared data outlive the folder that they came from."""
    return path.name + reason.removeprefix(str(path))


def _fingerprint(kind: type[SentenceClassification], files: Mapping[str, Path], on_bad_row: str) -> str:
    digest = hashlib.sha256(f"{kind.__name__} {kind.VERSION} {on_bad_row}".encode())
    for path in files.values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _prepare(builder: SentenceClassification) -> None:
    # TFDS tells of its progress on stdout, where predictions may go, and draws bars for what takes a second.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


class _Examples(Sequence[Example]):
    """A TFDS data source as a sequence of examples of plain Python values."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [_plain(record) for record in self._source.__getitems__(range(len(self))[index])]
        # range refuses what is out of range, and counts from the end.
        return _plain(self._source[range(len(self))[operator.index(index)]])

    def __iter__(self) -> Iterator[Example]:
        return iter(self[:])


def _plain(record: Mapping[str, Any]) -> Example:
    return {"id": record["id"].decode(), "text": record["text"].decode(), "label": int(record["label"])}
