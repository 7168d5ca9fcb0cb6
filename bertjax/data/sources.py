"""Sources of datasets: starter ratings, a folder of CS224N's files, or a user's own file."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bertjax.data import tsv
from bertjax.data.problems import BadData, Problem, collecting, raise_if_any
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.tasks import Schema

Splits = dict[str, list[tsv.Row]]
SPLITS = ("train", "dev", "test")


class Source(Protocol):
    """The files of a dataset. Implementations are frozen dataclasses: the fields are part of the fingerprint.

    Attributes:
      labels: what the labels are, for readers of a result.
    """

    @property
    def labels(self) -> str: ...  # noqa: D102

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """Paths of the files, by split or role; UserError, which names the task `name`, if a file is missing."""
        ...

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Reads the rows.

        Args:
          files: from `find`.
          schema: the columns to read.
          on_bad_row: `error`, or `skip` to leave out bad rows.

        Returns:
          The rows of each split, with label None in an unlabelled split; and a line for each skipped row.

        Raises:
          BadData: reports everything that is wrong with all files.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Texts with the mean rating r of 20 people, from −4 to 4 (Hutto and Gilbert, ICWSM 2014).

    For a schema of five classes, `rating_class` turns ratings into classes. On movie reviews:

        very negative  r ≤ −2       19.35 %
        negative       −2 < r ≤ −1  23.79 %
        neutral        −1 < r < 1   13.50 %
        positive       1 ≤ r < 2    22.73 %
        very positive  r ≥ 2        20.62 %

    `split_of` assigns texts to splits, equal texts to the same one.

    The movie reviews are sentences of the Stanford Sentiment Treebank, including its dev and test sets, with other
    labels. A model trained on them has seen the texts of gold SST's dev and test sets.

    Attributes:
      file: name of the file in the starter asset.
      labels: what the labels are.
    """

    file: str
    labels: str

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The ratings file, from the cache or the package index."""
        return {"ratings": assets.fetch_asset("hutto-2014") / self.file}

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Reads ratings, as classes if the schema has classes, and splits them by text."""
        rated, skipped = tsv.read_ratings(files["ratings"], on_bad_row=on_bad_row)
        if not schema.is_score:
            rated = [row._replace(label=rating_class(row.label)) for row in rated]
        return _split(rated), [_with_file_name(line, files["ratings"]) for line in skipped]


@dataclasses.dataclass(frozen=True)
class CourseFiles:
    """PREFIX-train.csv, PREFIX-dev.csv and optionally PREFIX-test.csv or PREFIX-test-student.csv in CS224N's layout.

    A test file may lack the label column.

    Attributes:
      prefix: prefix of the file names.
      labels: what the labels are.
      instead: a task without files of one's own, to suggest when the folder is missing.
    """

    prefix: str
    labels: str
    instead: str = "rated_sst"

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The files in the folder."""
        files = {split: f"{self.prefix}-{split}.csv" for split in SPLITS}
        if data_dir is None:
            raise UserError(
                f"--config.data_dir: {name} needs the folder of {files['train']} and {files['dev']}, found none; "
                f"pass it, or use --config.task={self.instead}, which needs no files"
            )
        paths = {split: data_dir / file for split, file in files.items()}
        missing = [f"the file {paths[split]}" for split in ("train", "dev") if not paths[split].is_file()]
        if missing:
            what = f"expected {' and '.join(missing)}, found none"
            raise BadData([Problem("--config.data_dir", None, what, "pass the folder that has it")])
        if not paths["test"].is_file():
            paths["test"] = data_dir / f"{self.prefix}-test-student.csv"
        if not paths["test"].is_file():
            del paths["test"]
        return paths

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Reads each file as a split."""
        splits: Splits = {}
        all_skipped: list[str] = []
        problems: list[Problem] = []
        for split, path in files.items():
            with collecting(problems):
                is_labelled = split != "test" or schema.label in tsv.read_header(path)
                splits[split], skipped = tsv.read_course_file(
                    path,
                    texts=schema.texts,
                    label=schema.label if is_labelled else None,
                    parse_label=tsv.label_parser(schema),
                    on_bad_row=on_bad_row,
                )
                all_skipped += [_with_file_name(line, path) for line in skipped]
        raise_if_any(problems)
        return splits, all_skipped


@dataclasses.dataclass(frozen=True)
class OwnFile:
    """A user's own tab-separated file. Its header has the schema's columns and possibly others.

    Attributes:
      path: path of the file.
      id: name of the column with the rows' ids, or None to number rows.
      dev: a file for dev with the same columns, or None to take dev and test from the file, by `split_of`.
      labels: what the labels are.
    """

    path: Path
    id: str | None = None
    dev: Path | None = None
    labels: str = "those of --config.data_file"

    def find(self, name: str, data_dir: Path | None) -> dict[str, Path]:
        """The file, and the file for dev if there is one."""
        raise_if_any(
            Problem(f"--config.{flag}", None, f"expected the file {path}, found none", "check the path")
            for flag, path in (("data_file", self.path), ("dev_file", self.dev))
            if path is not None and not path.is_file()
        )
        return {"train": self.path} if self.dev is None else {"train": self.path, "dev": self.dev}

    def read(self, files: Mapping[str, Path], schema: Schema, on_bad_row: str) -> tuple[Splits, list[str]]:
        """Reads the schema's columns."""
        splits: Splits = {}
        all_skipped: list[str] = []
        problems: list[Problem] = []
        for split, path in files.items():
            with collecting(problems):
                splits[split], skipped = tsv.read_table(path, schema=schema, id_column=self.id, on_bad_row=on_bad_row)
                all_skipped += [_with_file_name(line, path) for line in skipped]
        raise_if_any(problems)
        if self.dev is None:
            num_rows = len(splits["train"])
            splits = _split(splits["train"])
            if not (splits["train"] and splits["dev"]):
                what = f"expected enough rows to take some for dev, found {num_rows}"
                remedy = "add rows, or pass a file for dev with --config.dev_file"
                raise BadData([Problem(str(self.path), None, what, remedy)])
        return splits, all_skipped


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
    """The class of a mean rating from −4 to 4. The cuts −2, −1, 1 and 2 belong to the outer classes."""
    if rating <= -2:
        return 0
    if rating <= -1:
        return 1
    if rating < 1:
        return 2
    return 3 if rating < 2 else 4


def split_of(text: str) -> str:
    """The split of a text, by a hash: train for eight texts in ten, dev for one, test for one.

    Texts that are equal after `normalize_text` have the same split, in any file.
    """
    tenth = int(hashlib.sha256(normalize_text(text).encode()).hexdigest(), 16) % 10
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"


def normalize_text(text: str) -> str:
    """The text in lower case, with single spaces and one Unicode form, so that copies of it are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).lower()


def _split(rows: list[tsv.Row]) -> Splits:
    splits: Splits = {split: [] for split in SPLITS}
    for row in rows:
        splits[split_of(" ".join(row.texts))].append(row)
    return splits


def _with_file_name(line: str, path: Path) -> str:
    """Shortens the path at the start of a line to the file's name: prepared data outlive the folder of their files."""
    return path.name + line.removeprefix(str(path))
