"""Documents for further pre-training: whole texts as lists of sentences, in order, split into train and dev."""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bertjax.data.problems import Problem, gathered, refuse
from bertjax.data.sources import split_of
from bertjax.data.text_file import read_lines
from bertjax.data.tsv import read_ratings
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.files.paths import user_path

Document = tuple[str, ...]


EDITORIALS = "editorials"


_COLUMNS = ("article", "paragraph")


# What ends a sentence, with the quotes and brackets that close after it; then a space, and something to begin one.
_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["'\u201d\u2019)\]])|(?<=[.!?]''))\s+(?=["'\u201c\u2018(\[]*[A-Z0-9])|\s*\n\s*"""
)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents to pre-train on.

    Attributes:
      name: `editorials`, or the last part of the path.
      fingerprint: sixteen hexadecimal digits of a hash of all its documents.
      splits: "train" and "dev": one in ten documents, chosen by a hash of its text, is held out for dev.
    """

    name: str
    fingerprint: str
    splits: Mapping[str, Sequence[Document]]


def load_corpus(source: str) -> Corpus:
    """Loads a corpus; a document that stands in it twice counts once.

    Args:
      source: `editorials` (500 editorials of the New York Times, from the starter data: Hutto and Gilbert, ICWSM 2014);
        a folder of `*.txt` files in UTF-8, one sentence a line and a blank line between documents; or a `.csv` file
        with a header, in UTF-8, a document a row.
        Of the CSV's columns only one is read: `article`, or, where there is none, `paragraph`, as MultiOpEd's
        dataset.csv calls it (Liu et al., NAACL 2021). It is cut into sentences by `sentences`.

    Raises:
      BadData: with all that is wrong with the files: an empty one, text that is not UTF-8 or holds a NUL byte, a CSV
        without the column or with rows that are no comma-separated values.
      UserError: no such path, a folder without .txt files, or fewer than two documents in a split, which leaves no
        other document for a random next text.
    """
    path = user_path(source)
    if source == EDITORIALS:
        documents = _editorials()
    elif path.is_dir():
        documents = _folder(path)
    elif path.suffix == ".csv":
        documents = _csv(path)
    else:
        what = "a file" if path.exists() else "no such path"
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
    """Cuts a text at line breaks, and after `.`, `!` or `?` where a capital or a digit begins the next word.

    Closing quotes and brackets stay with the sentence that they end. An abbreviation before a name cuts too early:
    harmless here, as neighbouring sentences are packed together again.
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
        with gathered(problems):
            blocks = itertools.groupby((line.strip() for line in _lines(path, problems)), key=bool)
            documents += [tuple(lines) for is_text, lines in blocks if is_text]
    refuse(problems)
    return documents


def _csv(path: Path) -> list[Document]:
    problems: list[Problem] = []
    rows = _csv_rows("\n".join(_lines(path, problems)))
    line, names, flaw = next(rows, (1, [], ""))
    column = next((names.index(name) for name in _COLUMNS if name in names), None)
    if column is None and not flaw:
        what = f"expected a column {' or '.join(_COLUMNS)}, found {', '.join(names)}"
        problems.append(Problem(str(path), line, what, "give the column of texts that name"))
    if flaw:
        problems.append(Problem(str(path), line, flaw, "mend the header"))
    found = []
    for line, row, flaw in rows:
        if flaw:
            problems.append(Problem(str(path), line, flaw, "mend the row"))
        elif names and len(row) != len(names):
            what = f"expected {len(names)} comma-separated columns, found {len(row)}"
            problems.append(Problem(str(path), line, what, "put text that holds commas between quotation marks"))
        elif column is not None:
            found.append(split_sentences(row[column]))
    refuse(sorted(problems, key=lambda problem: problem.line or 0))
    return [document for document in found if document]


def _csv_rows(text: str) -> Iterator[tuple[int, list[str], str]]:
    """Rows that are not blank: the line each begins in, its fields, and what is wrong with it or ""."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a document may be a book
    # Strict: else a quotation mark out of place would join rows, and nobody would know.
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
    """Lines of a file; to `problems` it adds those that are no text."""
    for line in read_lines(path):
        if line.flaw:
            problems.append(Problem(str(path), line.number, line.flaw, "save the file as UTF-8 text"))
        yield line.text
