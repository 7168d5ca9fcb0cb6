"""Readers of tab-separated files of labelled texts. They report rows that do not fit and never guess."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data.problems import BadData, Problem, raise_if_any
from bertjax.data.text_file import Line, read_lines
from bertjax.errors import UserError, did_you_mean
from bertjax.tasks import Schema

ParseLabel = Callable[[str], int | float]


class Row(NamedTuple):
    """An example: one text or two, and a label, or None if the file has no labels."""

    id: str
    texts: tuple[str, ...]
    label: Any


def class_parser(num_classes: int) -> ParseLabel:
    """Returns a parser of classes 0 to num_classes − 1, written `3` or `3.0`; it raises ValueError for other text."""

    def parse(text: str) -> int:
        value = _number(text)
        if not (value.is_integer() and 0 <= value < num_classes):
            raise ValueError(f"expected a whole number from 0 to {num_classes - 1}, found {_quote(text)}")
        return int(value)

    return parse


def score_parser(low: float, high: float) -> ParseLabel:
    """Returns a parser of numbers from low to high, inclusive; it raises ValueError for other text."""

    def parse(text: str) -> float:
        value = _number(text)
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}, found {_quote(text)}")
        return value

    return parse


def _class_name_parser(names: Sequence[str]) -> ParseLabel:
    classes = {name: i for i, name in enumerate(names)}
    or_number = ""
    if all(math.isnan(_number(name)) for name in names):  # otherwise a number could mean a name or an index
        classes |= {str(i): i for i in range(len(names))}
        or_number = ", or its number from 0"

    def parse(text: str) -> int:
        if text.strip() not in classes:
            raise ValueError(f"expected one of {', '.join(names)}{or_number}, found {_quote(text)}")
        return classes[text.strip()]

    return parse


def label_parser(schema: Schema) -> ParseLabel:
    """Returns the parser of a schema's labels in CS224N's layout, where classes are numbers."""
    return score_parser(schema.low, schema.high) if schema.is_score else class_parser(len(schema.label_names))


class _Layout(NamedTuple):
    """The columns of a file, and which of them to read.

    Attributes:
      columns: names of all columns, in order.
      id: the column of ids, or None to number rows from 1.
      texts: the text columns.
      label: the label column, or None for a file without labels.
      parse_label: maps a label as written to its value.
    """

    columns: tuple[str, ...]
    id: str | None
    texts: tuple[str, ...]
    label: str | None
    parse_label: ParseLabel


def read_header(path: Path) -> tuple[str, ...]:
    """Reads the column names from the first line of a file; an unnamed column is "".

    Raises:
      BadData: the file does not exist, is empty, or its first line is not text.
    """
    return _parse_header(path, read_lines(path))


def read_course_file(
    path: Path, *, texts: Sequence[str], label: str | None, parse_label: ParseLabel, on_bad_row: str = "error"
) -> tuple[list[Row], list[str]]:
    """Reads a file in CS224N's layout: a header, then rows of an unnamed index, `id`, the texts and a label.

    Single tabs separate the columns, and quotation marks are ordinary characters. The file is UTF-8, with or without a
    byte order mark, and its lines end in LF or CRLF. Spaces around texts are kept.

    Args:
      path: path of the file.
      texts: names of the text columns: `("sentence",)`, or `("sentence1", "sentence2")` for pairs.
      label: name of the label column, or None for a file without labels.
      parse_label: maps a label as written to its value, or raises ValueError with what it expected and found.
      on_bad_row: `error`, or `skip` to leave out bad rows.

    Returns:
      The rows in order, and for each skipped row a line that says where it is and what is wrong with it.

    Raises:
      BadData: reports everything that is wrong: no file, another header, no usable row, or bad rows. A row is bad if it
        is not UTF-8 or has a NUL byte, if its column count is wrong, its id is missing or duplicated, a text is blank,
        or its label is missing or refused by `parse_label`.
      UserError: `on_bad_row` is neither `error` nor `skip`.
    """
    lines = read_lines(path)
    columns = _parse_header(path, lines)
    expected = ("", "id", *texts, *([label] if label else []))
    problems = []
    if columns != expected:
        expected_names, found_names = (
            ", ".join(name or "(unnamed)" for name in names) for names in (expected, columns)
        )
        what = f"expected a header with the tab-separated columns {expected_names}, found {_shorten(found_names)}"
        problems.append(Problem(str(path), 1, what, "give the file that header"))
    return _parse_rows(path, lines, _Layout(columns, "id", tuple(texts), label, parse_label), on_bad_row, problems)


def read_table(
    path: Path, *, schema: Schema, id_column: str | None, on_bad_row: str = "error"
) -> tuple[list[Row], list[str]]:
    """Reads a tab-separated file with the schema's columns in any order, possibly among others.

    A class is written as its name or, unless a class name is a number, as its number from 0. See `read_course_file` for
    the format, returns and errors.

    Args:
      path: path of the file.
      schema: the columns to read.
      id_column: name of the column of ids, or None to number rows from 1.
      on_bad_row: `error`, or `skip` to leave out bad rows.
    """
    lines = read_lines(path)
    columns = _parse_header(path, lines)
    problems = []
    for name in [*schema.texts, schema.label, *([id_column] if id_column else [])]:
        if columns.count(name) != 1:
            found = "several" if name in columns else _shorten(", ".join(columns)) + did_you_mean(name, columns)
            what = f"expected a header with one tab-separated column {name!r}, found {found}"
            problems.append(Problem(str(path), 1, what, "name the right one with --config.columns"))
    parse = score_parser(schema.low, schema.high) if schema.is_score else _class_name_parser(schema.label_names)
    layout = _Layout(columns, id_column, schema.texts, schema.label, parse)
    return _parse_rows(path, lines, layout, on_bad_row, problems)


def read_ratings(path: Path, *, on_bad_row: str = "error") -> tuple[list[Row], list[str]]:
    """Reads a ratings file of Hutto and Gilbert: id, mean rating from −4 to 4 and text, without a header.

    The label is the rating. See `read_course_file` for arguments, returns and errors.
    """
    layout = _Layout(("id", "rating", "text"), "id", ("text",), "rating", score_parser(-4, 4))
    return _parse_rows(path, read_lines(path), layout, on_bad_row, [])


def _parse_header(path: Path, lines: Iterator[Line]) -> tuple[str, ...]:
    header = next(lines)
    if header.flaw:  # probably not a text file at all
        raise BadData([Problem(str(path), header.number, header.flaw, "save the file as UTF-8 text")])
    return tuple(name.strip() for name in header.text.split("\t"))


def _parse_rows(
    path: Path, lines: Iterator[Line], layout: _Layout, on_bad_row: str, problems: list[Problem]
) -> tuple[list[Row], list[str]]:
    """Parses the rows after the header.

    `problems` are those of the header. If there are any, the rows are checked too, in the columns that the header has.
    """
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"--config.on_bad_row: expected error or skip, found {on_bad_row!r}")
    # Columns that the header lacks or has twice are not checked.
    occurrences = Counter(layout.columns)
    position = {name: i for i, name in enumerate(layout.columns) if occurrences[name] == 1}
    rows: list[Row] = []
    skipped: list[str] = []
    line_of_id: dict[str, int] = {}
    count = 0
    for count, (number, text, flaw) in enumerate(lines, 1):
        row, flaws = (None, [flaw]) if flaw else _parse_row(text.split("\t"), layout, position)
        if row and layout.id is None:
            row = row._replace(id=str(count))
        elif row and row.id:
            first_line = line_of_id.setdefault(row.id, number)
            if first_line != number:
                flaws.append(f"{layout.id}: expected unique ids, found {_quote(row.id)} in line {first_line} too")
        if not flaws and row:
            rows.append(row)
        elif on_bad_row == "skip":
            skipped.append(f"{path}:{number}: {'; '.join(flaws)}")
        else:
            problems += [Problem(str(path), number, what, "fix the row", is_row=True) for what in flaws]
    if not count and not problems:
        problems.append(Problem(str(path), None, "expected rows, found only a header", "add rows"))
    raise_if_any(problems)
    if not rows:
        what = f"expected rows, found {len(skipped)}, all of them bad, the first at {skipped[0]}"
        raise BadData([Problem(str(path), None, what, "fix them")])
    return rows, skipped


def _parse_row(fields: list[str], layout: _Layout, position: Mapping[str, int]) -> tuple[Row | None, list[str]]:
    """Parses a row; returns it, or None if its column count is wrong, and what is wrong with it."""
    if len(fields) != len(layout.columns):
        what = f"expected {len(layout.columns)} tab-separated columns, found {len(fields)}"
        if any(field.lstrip().startswith('"') for field in fields):
            what += " (quotation marks are ordinary characters: a tab or line break between them still separates)"
        return None, [what]
    flaws = []
    row_id, label = "", None
    if layout.id is not None and layout.id in position:
        row_id = fields[position[layout.id]].strip()
        if not row_id:
            flaws.append(f"{layout.id}: expected an id, found none")
    columns = [column for column in layout.texts if column in position]
    texts = tuple(fields[position[column]] for column in columns)
    flaws += [
        f"{name}: expected text, found none" for name, text in zip(columns, texts, strict=True) if not text.strip()
    ]
    if layout.label is not None and layout.label in position:
        written = fields[position[layout.label]]
        try:
            label = layout.parse_label(written)
        except ValueError as error:
            flaws.append(f"{layout.label}: {error if written.strip() else 'expected a label, found none'}")
    return Row(row_id, texts, label), flaws


def _number(text: str) -> float:
    """The number, or NaN for other text, so that every comparison fails."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _quote(text: str) -> str:
    return repr(_shorten(text))


def _shorten(text: str, max_length: int = 80) -> str:
    return text if len(text) <= max_length else text[:max_length] + "…"
