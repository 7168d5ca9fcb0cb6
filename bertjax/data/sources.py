"""Where each dataset's rows come from: starter ratings, a folder of CS224N's files, or a user's own file."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bertjax.data import tsv
from bertjax.data.problems import BadData, Problem, gathered, refuse
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.tasks import Schema

Splits = dict[str, list[tsv.Row]]


SPLITS = ("train", "dev", "test")


class Source(Protocol):
    """Files that hold a dataset's rows; a frozen dataclass, whose fields tell one source from another.

    Attributes:
      labels: what its labels are, for whoever reads a result.
    """

    @property
    def labels(self) -> str: ...  # noqa: D102

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The files; UserError where they are not to be had. `name` is the task's, for the message."""
        ...

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """The rows of each split, and why others were left out; rows of an unlabelled split have label None.

        Raises:
          BadData: with all that is wrong with all of the files.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Ratings:
    """A set of texts with the mean rating r of 20 people, from −4 to 4 (Hutto and Gilbert, ICWSM 2014).

    For a schema of five classes, `rating_class` cuts the ratings. On movie reviews:

        very negative  r ≤ −2       19.35 %
        negative       −2 < r ≤ −1  23.79 %
        neutral        −1 < r < 1   13.50 %
        positive       1 ≤ r < 2    22.73 %
        very positive  r ≥ 2        20.62 %

    `split_of` makes the splits and keeps equal texts together.

    The movie reviews' sentences are the Stanford Sentiment Treebank's, those of its dev and test sets included, though
    the labels are not: a score on gold SST after training on them is no score on unseen text.

    Attributes:
      file: of the starter asset.
      labels: what the labels are.
    """

    file: str
    labels: str

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The file of ratings, from the cache or the package index."""
        return {"ratings": assets.fetch_asset("hutto-2014") / self.file}

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Cuts ratings into classes, where the schema has any, and texts into splits."""
        rated, skipped = tsv.read_ratings(files["ratings"], on_bad_row=on_bad_row)
        if not schema.is_score:
            rated = [row._replace(label=rating_class(row.label)) for row in rated]
        return _split(rated), [_named(reason, files["ratings"]) for reason in skipped]


@dataclasses.dataclass(frozen=True)
class CourseFiles:
    """PREFIX-train.csv, PREFIX-dev.csv and, if there, PREFIX-test.csv or PREFIX-test-student.csv, in CS224N's layout.

    A test file may lack the label column.

    Attributes:
      prefix: of the files' names.
      labels: what the labels are.
      instead: a task that needs no files.
    """

    prefix: str
    labels: str
    instead: str = "rated_sst"

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The files that the folder has."""
        files = {split: f"{self.prefix}-{split}.csv" for split in SPLITS}
        if data_dir is None:
            raise UserError(
                f"--config.data_dir: {name} needs the folder of {files['train']} and {files['dev']}, found none; "
                f"pass it, or use --config.task={self.instead}, which needs no files"
            )
        found = {split: data_dir / file for split, file in files.items()}
        missing = [f"the file {found[split]}" for split in ("train", "dev") if not found[split].is_file()]
        if missing:
            what = f"expected {' and '.join(missing)}, found none"
            raise BadData([Problem("--config.data_dir", None, what, "pass the folder that has it")])
        if not found["test"].is_file():
            found["test"] = data_dir / f"{self.prefix}-test-student.csv"
        if not found["test"].is_file():
            del found["test"]
        return found

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """A split from each file."""
        splits: Splits = {}
        reasons: list[str] = []
        problems: list[Problem] = []
        for split, path in files.items():
            with gathered(problems):
                is_labelled = split != "test" or schema.label in tsv.read_header(path)
                splits[split], skipped = tsv.read_rows(
                    path,
                    texts=schema.texts,
                    label=schema.label if is_labelled else None,
                    parse_label=tsv.label_parser(schema),
                    on_bad_row=on_bad_row,
                )
                reasons += [_named(reason, path) for reason in skipped]
        refuse(problems)
        return splits, reasons


@dataclasses.dataclass(frozen=True)
class OwnFile:
    """A user's own tab-separated file with a header that has the schema's columns, and any others.

    Attributes:
      path: of the file.
      id: name of the column that names rows, or None to number them.
      dev: a file of the same columns for dev, or None: `split_of` then takes dev and test out of the one file.
      labels: what the labels are.
    """

    path: Path
    id: str | None = None
    dev: Path | None = None
    labels: str = "those of --config.data_file"

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The file or files."""
        refuse(
            Problem(f"--config.{flag}", None, f"expected the file {path}, found none", "check the path")
            for flag, path in (("data_file", self.path), ("dev_file", self.dev))
            if path is not None and not path.is_file()
        )
        return {"train": self.path} if self.dev is None else {"train": self.path, "dev": self.dev}

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Reads the declared columns."""
        splits: Splits = {}
        reasons: list[str] = []
        problems: list[Problem] = []
        for split, path in files.items():
            with gathered(problems):
                splits[split], skipped = tsv.read_table(path, schema=schema, id_column=self.id, on_bad_row=on_bad_row)
                reasons += [_named(reason, path) for reason in skipped]
        refuse(problems)
        if self.dev is None:
            whole = len(splits["train"])
            splits = _split(splits["train"])
            if not (splits["train"] and splits["dev"]):
                what = f"expected enough rows to take some for dev, found {whole}"
                remedy = "pass a file for dev with --config.dev_file"
                raise BadData([Problem(str(self.path), None, what, remedy)])
        return splits, reasons


_RATED = "mean ratings by 20 people, from −4 to 4"


SOURCES: Mapping[str, Source] = {
    "rated_sst": Ratings(
        "movieReviewSnippets_GroundTruth.txt",
        "mean ratings by 20 people, cut into five classes; not SST's gold labels",
    ),
    "rated_amazon": Ratings("amazonReviewSnippets_GroundTruth.txt", _RATED),
    "rated_tweets": Ratings("tweets_GroundTruth.txt", _RATED),
    "rated_editorials": Ratings("nytEditorialSnippets_GroundTruth.txt", _RATED),
    "sst5": CourseFiles("ids-sst", "SST's gold labels, as --config.data_dir has them"),
    "cfimdb": CourseFiles("ids-cfimdb", "gold, as --config.data_dir has them"),
    "quora": CourseFiles("quora", "gold, as --config.data_dir has them"),
    "sts": CourseFiles("sts", "gold, as --config.data_dir has them", instead="rated_amazon"),
}


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

    Texts that are equal once `normalised` belong to the same one.
    """
    tenth = int(hashlib.sha256(normalize_text(text).encode()).hexdigest(), 16) % 10
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"


def normalize_text(text: str) -> str:
    """The text without what two copies of it may differ in: case, spaces and the form of a letter."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).lower()


def _split(examples: list[tsv.Row]) -> Splits:
    splits: Splits = {split: [] for split in SPLITS}
    for row in examples:
        splits[split_of(" ".join(row.texts))].append(row)
    return splits


def _named(reason: str, path: Path) -> str:
    """A reason with the file's name for its path: prepared data outlive the folder that they came from."""
    return path.name + reason.removeprefix(str(path))
