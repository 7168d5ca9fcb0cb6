"""Documents for further pre-training: whole texts as lists of sentences, in order, split into train and dev."""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bertjax import assets
from bertjax.data.rows import read_lines, read_ratings
from bertjax.data.sources import split_of
from bertjax.errors import UserError

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
      UserError: no such path, a folder without .txt files, an empty file, text that is not UTF-8, a CSV without the
        column, or fewer than two documents in a split, which leaves no other document for a random next text.
    """
    path = Path(source).expanduser()
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


def sentences(text: str) -> Document:
    """Cuts a text at line breaks, and after `.`, `!` or `?` where a capital or a digit begins the next word.

    Closing quotes and brackets stay with the sentence that they end. An abbreviation before a name cuts too early:
    harmless here, as neighbouring sentences are packed together again.
    """
    return tuple(part.strip() for part in _SENTENCE_END.split(text) if part.strip())


def _editorials() -> list[Document]:
    rows, _ = read_ratings(assets.fetch("hutto-2014") / "nytEditorialSnippets_GroundTruth.txt")
    articles = itertools.groupby(rows, key=lambda row: row.id.partition("_")[0])
    return [tuple(row.texts[0].strip() for row in members) for _, members in articles]


def _folder(folder: Path) -> list[Document]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise UserError(f"--config.corpus: expected .txt files in the folder {folder}, found none")
    documents = []
    for path in paths:
        stripped = (line.strip() for _, line in read_lines(path))
        blocks = itertools.groupby(stripped, key=bool)
        documents += [tuple(lines) for is_text, lines in blocks if is_text]
    return documents


def _csv(path: Path) -> list[Document]:
    text = "\n".join(line for _, line in read_lines(path))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        column = next((name for name in _COLUMNS if name in names), None)
        if column is None:
            raise UserError(f"{path}:1: expected a column {' or '.join(_COLUMNS)}, found {', '.join(names)}")
        found = []
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}:{reader.reader.line_num}: expected {len(names)} comma-separated columns, found another "
                    "number; put text that holds commas between quotation marks"
                )
            found.append(sentences(row[column]))
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.reader.line_num}: expected comma-separated values ({error}); mend the row"
        ) from None
    return [document for document in found if document]
