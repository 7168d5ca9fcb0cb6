"""Tab-separated files of labelled texts, read strictly: a row that does not fit is reported, never guessed at."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data.problems import BadData, Problem, refuse
from bertjax.data.text_file import Line, read_lines
from bertjax.errors import UserError, did_you_mean
from bertjax.tasks import Schema

ParseLabel = Callable[[str], int | float]


class Row(NamedTuple):
    """An example: one text or two, and a label, None where the file has none."""

    id: str
    texts: tuple[str, ...]
    label: Any


def class_parser(num_classes: int) -> ParseLabel:
    """A parser of classes 0 .. num_classes − 1, written `3` or `3.0`; it raises ValueError for anything else."""

    def parse(text: str) -> int:
        value = _number(text)
        if not (value.is_integer() and 0 <= value < num_classes):
            raise ValueError(f"expected a whole number from 0 to {num_classes - 1}, found {_quote(text)}")
        return int(value)

    return parse


def score_parser(low: float, high: float) -> ParseLabel:
    """A parser of numbers from low to high, both included; it raises ValueError for anything else."""

    def parse(text: str) -> float:
        value = _number(text)
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}, found {_quote(text)}")
        return value

    return parse


def _class_name(names: Sequence[str]) -> ParseLabel:
    numbered = {name: i for i, name in enumerate(names)}
    also = ""
    if all(math.isnan(_number(name)) for name in names):
        numbered |= {str(i): i for i in range(len(names))}
        also = ", or its number from 0"

    def parse(text: str) -> int:
        if text.strip() not in numbered:
            raise ValueError(f"expected one of {', '.join(names)}{also}, found {_quote(text)}")
        return numbered[text.strip()]

    return parse


def label_parser(schema: Schema) -> ParseLabel:
    """The parser of a schema's labels."""
    return score_parser(schema.low, schema.high) if schema.is_score else class_parser(len(schema.label_names))


class _Layout(NamedTuple):
    """What is read of a file.

    Attributes:
      columns: that it has.
      id: the column that names rows, or None to number them from 1.
      texts: the columns of texts.
      label: the column of labels, or None.
      parse_label: of a label as written.
    """

    columns: tuple[str, ...]
    id: str | None
    texts: tuple[str, ...]
    label: str | None
    parse_label: ParseLabel


def read_header(path: Path) -> tuple[str, ...]:
    """The names of a file's columns, from its first line; the first is the unnamed index, "".

    Raises:
      BadData: no such file, an empty one, or a header that is no text.
    """
    return _columns(path, read_lines(path))


def read_rows(
    path: Path, *, texts: Sequence[str], label: str | None, parse_label: ParseLabel, on_bad_row: str = "error"
) -> tuple[list[Row], list[str]]:
    """Reads a file in CS224N's layout: a header, then rows; an unnamed index, `id`, the texts and a label.

    Columns are parted by single tabs and quotation marks are plain characters. The file is UTF-8, with or without
    a byte order mark, its lines end in LF or CRLF. Texts come as they stand, spaces around them included.

    Args:
      path: the file.
      texts: the text columns' names: `("sentence",)`, or `("sentence1", "sentence2")` for pairs.
      label: the label column's name, or None for a file without labels.
      parse_label: from a label as written to its value; it raises ValueError with what it expected and found.
      on_bad_row: `error`, or `skip`, which leaves bad rows out.

    Returns:
      The rows in order, and a line for each row left out: where it stands and what is wrong with it.

    Raises:
      BadData: with all that is wrong: no such file, another header, no usable row, or bad rows: no UTF-8, a NUL
        byte, another number of columns, an id that is missing or given twice, a blank text, a label that is missing,
        no number, or out of range.
      UserError: another `on_bad_row`.
    """
    lines = read_lines(path)
    columns = _columns(path, lines)
    expected = ("", "id", *texts, *([label] if label else []))
    problems = []
    if columns != expected:
        names, found = (", ".join(name or "(unnamed)" for name in each) for each in (expected, columns))
        what = f"expected a header with the tab-separated columns {names}, found {_shorten(found)}"
        problems.append(Problem(str(path), 1, what, "give the file that header"))
    return _parse(path, lines, _Layout(columns, "id", tuple(texts), label, parse_label), on_bad_row, problems)


def read_table(
    path: Path, *, schema: Schema, id_column: str | None, on_bad_row: str = "error"
) -> tuple[list[Row], list[str]]:
    """Reads a tab-separated file whose header names the schema's columns, in any order and among others.

    A class is written as its name or, where no name is a number, as its number, from 0. Args, returns and errors are
    those of `read_rows` else.

    Args:
      path: the file.
      schema: the columns to read.
      id_column: the column that names rows, or None to number them from 1.
      on_bad_row: as of `read_rows`.
    """
    lines = read_lines(path)
    columns = _columns(path, lines)
    problems = []
    for name in [*schema.texts, schema.label, *([id_column] if id_column else [])]:
        if columns.count(name) != 1:
            found = "several" if name in columns else _shorten(", ".join(columns)) + did_you_mean(name, columns)
            what = f"expected a header with one tab-separated column {name!r}, found {found}"
            problems.append(Problem(str(path), 1, what, "name the right one with --config.columns"))
    parse = score_parser(schema.low, schema.high) if schema.is_score else _class_name(schema.label_names)
    layout = _Layout(columns, id_column, schema.texts, schema.label, parse)
    return _parse(path, lines, layout, on_bad_row, problems)


def read_ratings(path: Path, *, on_bad_row: str = "error") -> tuple[list[Row], list[str]]:
    """Reads one of Hutto and Gilbert's files: no header; id, mean rating from −4 to 4, text. The label is the rating.

    Args and returns as `read_rows`.

    Raises:
      BadData: as `read_rows`.
    """
    layout = _Layout(("id", "rating", "text"), "id", ("text",), "rating", score_parser(-4, 4))
    return _parse(path, read_lines(path), layout, on_bad_row, [])


def _columns(path: Path, lines: Iterator[Line]) -> tuple[str, ...]:
    header = next(lines)
    if header.flaw:  # nor will the rest be what it should
        raise BadData([Problem(str(path), header.number, header.flaw, "save the file as UTF-8 text")])
    return tuple(name.strip() for name in header.text.split("\t"))


def _parse(
    path: Path, lines: Iterator[Line], layout: _Layout, on_bad_row: str, problems: list[Problem]
) -> tuple[list[Row], list[str]]:
    """The rows and what was left out; `problems` are the header's, and then only columns that it names are checked."""
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"--config.on_bad_row: expected error or skip, found {on_bad_row!r}")
    # Of a column that the header does not name, or names twice, nothing can be said.
    times = Counter(layout.columns)
    places = {name: i for i, name in enumerate(layout.columns) if times[name] == 1}
    rows: list[Row] = []
    skipped: list[str] = []
    lines_of: dict[str, int] = {}
    count = 0
    for count, (number, text, flaw) in enumerate(lines, 1):
        row, flaws = (None, [flaw]) if flaw else _row(text.split("\t"), layout, places)
        if row and layout.id is None:
            row = row._replace(id=str(count))
        elif row and row.id:
            before = lines_of.setdefault(row.id, number)
            if before != number:
                flaws.append(f"{layout.id}: expected every id once, found {_quote(row.id)} of line {before} again")
        if not flaws and row:
            rows.append(row)
        elif on_bad_row == "skip":
            skipped.append(f"{path}:{number}: {'; '.join(flaws)}")
        else:
            problems += [Problem(str(path), number, each, "fix the row", is_row=True) for each in flaws]
    if not count and not problems:
        problems.append(Problem(str(path), None, "expected rows, found only a header", "give it rows"))
    refuse(problems)
    if not rows:
        what = f"expected rows, all {len(skipped)} are bad, the first at {skipped[0]}"
        raise BadData([Problem(str(path), None, what, "fix them")])
    return rows, skipped


def _row(fields: list[str], layout: _Layout, places: Mapping[str, int]) -> tuple[Row | None, list[str]]:
    """The row, and what is wrong with it; None where its columns cannot be told apart."""
    if len(fields) != len(layout.columns):
        what = f"expected {len(layout.columns)} tab-separated columns, found {len(fields)}"
        if any(field.lstrip().startswith('"') for field in fields):
            what += " (quotation marks are plain characters: a tab or line break between them parts all the same)"
        return None, [what]
    flaws = []
    name, label, value = "", layout.label, None
    if layout.id is not None and layout.id in places:
        name = fields[places[layout.id]].strip()
        if not name:
            flaws.append(f"{layout.id}: expected an id, found none")
    texts = tuple(fields[places[text]] for text in layout.texts if text in places)
    if not all(map(str.strip, texts)):
        blank = (text for text in layout.texts if text in places and not fields[places[text]].strip())
        flaws += [f"{text}: expected text, found none" for text in blank]
    if label is not None and label in places:
        written = fields[places[label]]
        try:
            value = layout.parse_label(written)
        except ValueError as error:
            flaws.append(f"{label}: {error if written.strip() else 'expected a label, found none'}")
    return Row(name, texts, value), flaws


def _number(text: str) -> float:
    """NaN for what is no number, so that every comparison refuses it."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _quote(text: str) -> str:
    return repr(_shorten(text))


def _shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[:most] + "…"
