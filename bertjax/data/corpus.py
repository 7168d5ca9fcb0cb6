"""Corpora for further pre-training: documents as sentences in order, split into train and dev."""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bertjax.data.problems import Problem, collecting, raise_if_any
from bertjax.data.sources import split_of
from bertjax.data.text_file import read_lines
from bertjax.data.tsv import read_ratings
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.files.paths import user_path

Document = tuple[str, ...]
"""The sentences of a document, in order."""
EDITORIALS = "editorials"
_TEXT_COLUMNS = ("article", "paragraph")

# The end of a sentence with its closing quotes and brackets, then a space, then the start of the next one.
_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["'\u201d\u2019)\]])|(?<=[.!?]''))\s+(?=["'\u201c\u2018(\[]*[A-Z0-9])|\s*\n\s*"""
)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents to pre-train on.

    Attributes:
      name: `editorials`, or the last part of the path.
      fingerprint: sixteen hexadecimal digits of a hash of all documents.
      splits: documents by split. A hash of the text assigns one document in ten to "dev" and the others to "train".
    """

    name: str
    fingerprint: str
    splits: Mapping[str, Sequence[Document]]


def load_corpus(source: str) -> Corpus:
    """Loads a corpus. Duplicate documents are dropped.

    Args:
      source: one of

        - `editorials`: 500 editorials of the New York Times, from the starter data (Hutto and Gilbert, ICWSM 2014);
        - a folder of UTF-8 `*.txt` files, with one sentence a line and a blank line between documents;
        - a UTF-8 `.csv` file with a header and one document a row. Only the column `article` is read or, without it,
          `paragraph`, its name in MultiOpEd's dataset.csv (Liu et al., NAACL 2021). `split_sentences` splits it.

    Raises:
      BadData: reports everything that is wrong with the files: an empty file, text that is not UTF-8 or has a NUL byte,
        a CSV without the column, or malformed CSV rows.
      UserError: the path does not exist, a folder has no .txt files, or a split has fewer than two documents.
    """
    path = user_path(source)
    if source == EDITORIALS:
        documents = _editorials()
    elif path.is_dir():
        documents = _folder(path)
    elif path.suffix == ".csv":
        documents = _csv(path)
    else:
        what = "another kind of file" if path.exists() else "no such path"
        raise UserError(
            f"--config.corpus: expected {EDITORIALS!r}, a folder of .txt files or a .csv file, found {what}: {source}"
        )
    documents = list(dict.fromkeys(documents))
    splits: dict[str, list[Document]] = {"train": [], "dev": []}
    for document in documents:
        splits["dev" if split_of(" ".join(document)) == "dev" else "train"].append(document)
    for split, members in splits.items():
        if len(members) < 2:
            raise UserError(
                f"--config.corpus: {source}: expected at least 2 documents in split {split}, found {len(members)} "
                f"of {len(documents)}; add documents (a blank line ends one in a .txt file)"
            )
    digest = hashlib.sha256(json.dumps(documents).encode()).hexdigest()[:16]
    return Corpus(EDITORIALS if source == EDITORIALS else path.name, digest, splits)


def split_sentences(text: str) -> Document:
    """Splits a text at line breaks, and after `.`, `!` or `?` if the next word starts with a capital or a digit.

    Closing quotes and brackets stay with their sentence. An abbreviation before a name splits too early, which is
    harmless: neighbouring sentences are packed together again.
    """
    return tuple(part.strip() for part in _SENTENCE_END.split(text) if part.strip())


def _editorials() -> list[Document]:
    rows, _ = read_ratings(assets.fetch_asset("hutto-2014") / "nytEditorialSnippets_GroundTruth.txt")
    articles = itertools.groupby(rows, key=lambda row: row.id.partition("_")[0])
    return [tuple(row.texts[0].strip() for row in members) for _, members in articles]


def _folder(folder: Path) -> list[Document]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise UserError(f"--config.corpus: expected .txt files in the folder {folder}, found none")
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in paths:
        with collecting(problems):
            blocks = itertools.groupby((line.strip() for line in _lines(path, problems)), key=bool)
            documents += [tuple(lines) for is_text, lines in blocks if is_text]
    raise_if_any(problems)
    return documents


def _csv(path: Path) -> list[Document]:
    problems: list[Problem] = []
    rows = _csv_rows("\n".join(_lines(path, problems)))
    line, names, flaw = next(rows, (1, [], ""))
    column = next((names.index(name) for name in _TEXT_COLUMNS if name in names), None)
    if column is None and not flaw:
        what = f"expected a column {' or '.join(_TEXT_COLUMNS)}, found {', '.join(names)}"
        problems.append(Problem(str(path), line, what, "rename the column of texts"))
    if flaw:
        problems.append(Problem(str(path), line, flaw, "fix the header"))
    documents = []
    for line, row, flaw in rows:
        if flaw:
            problems.append(Problem(str(path), line, flaw, "fix the row"))
        elif names and len(row) != len(names):
            what = f"expected {len(names)} comma-separated columns, found {len(row)}"
            problems.append(Problem(str(path), line, what, "put quotation marks around text with commas"))
        elif column is not None:
            documents.append(split_sentences(row[column]))
    raise_if_any(sorted(problems, key=lambda problem: problem.line or 0))
    return [document for document in documents if document]


def _csv_rows(text: str) -> Iterator[tuple[int, list[str], str]]:
    """Yields for each row that is not blank its first line number, its fields, and what is wrong with it or ""."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a document may be a book
    # Strict, because otherwise a stray quotation mark would silently join rows.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, [], f"expected comma-separated values ({error})"
        else:
            if row:
                yield line, row, ""


def _lines(path: Path, problems: list[Problem]) -> Iterator[str]:
    """Yields the lines of a file, and adds to `problems` those that are not text."""
    for line in read_lines(path):
        if line.flaw:
            problems.append(Problem(str(path), line.number, line.flaw, "save the file as UTF-8 text"))
        yield line.text
