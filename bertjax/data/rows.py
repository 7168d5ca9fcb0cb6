"""Tab-separated files of labelled texts, read strictly: a row that does not fit is reported, never guessed at."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data.schema import Schema
from bertjax.errors import UserError, nearest

ParseLabel = Callable[[str], int | float]
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """An example: one text or two, and a label, None where the file has none."""

    id: str
    texts: tuple[str, ...]
    label: Any


def class_label(num_classes: int) -> ParseLabel:
    """A parser of classes 0 .. num_classes − 1, written `3` or `3.0`; it raises ValueError for anything else."""

    def parse(text: str) -> int:
        value = _number(text)
        if not (value.is_integer() and 0 <= value < num_classes):
            raise ValueError(f"expected a whole number from 0 to {num_classes - 1}, found {_quote(text)}")
        return int(value)

    return parse


def score(low: float, high: float) -> ParseLabel:
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
    if not any(name.isdigit() for name in names):
        numbered |= {str(i): i for i in range(len(names))}
        also = ", or its number from 0"

    def parse(text: str) -> int:
        if text.strip() not in numbered:
            raise ValueError(f"expected one of {', '.join(names)}{also}, found {_quote(text)}")
        return numbered[text.strip()]

    return parse


def label_parser(schema: Schema) -> ParseLabel:
    """The parser of a schema's labels."""
    return score(schema.low, schema.high) if schema.is_score else class_label(len(schema.label_names))


def read_header(path: Path) -> tuple[str, ...]:
    """The names of a file's columns, from its first line; the first is the unnamed index, "".

    Raises:
      UserError: no such file, an empty one, or one that is not UTF-8.
    """
    return _columns(next(read_lines(path))[1])


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
      UserError: no such file, another header, not UTF-8, no usable row, or a bad row: another number of columns,
        a blank text, a label that is missing, no number, or out of range; or another `on_bad_row`.
    """
    lines = read_lines(path)
    columns = ("", "id", *texts, *([label] if label else []))
    found = _columns(next(lines)[1])
    if found != columns:
        expected = ", ".join(name or "(unnamed)" for name in columns)
        names = ", ".join(name or "(unnamed)" for name in found)
        raise UserError(
            f"{path}:1: expected a header with the tab-separated columns {expected}, found {_shorten(names)}; "
            "give the file that header"
        )
    return _parse(path, lines, columns, "id", tuple(texts), label, parse_label, on_bad_row)


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
    columns = _columns(next(lines)[1])
    wanted = [*schema.texts, schema.label, *([id_column] if id_column else [])]
    for name in wanted:
        if columns.count(name) != 1:
            found = "several" if name in columns else _shorten(", ".join(columns)) + nearest(name, columns)
            raise UserError(
                f"{path}:1: expected a header with one tab-separated column {name!r}, found {found}; "
                "name the right one with --config.columns"
            )
    parse = score(schema.low, schema.high) if schema.is_score else _class_name(schema.label_names)
    return _parse(path, lines, columns, id_column, schema.texts, schema.label, parse, on_bad_row)


def read_ratings(path: Path, *, on_bad_row: str = "error") -> tuple[list[Row], list[str]]:
    """Reads one of Hutto and Gilbert's files: no header; id, mean rating from −4 to 4, text. The label is the rating.

    Args and returns as `read_rows`.

    Raises:
      UserError: as `read_rows`.
    """
    columns = ("id", "rating", "text")
    return _parse(path, read_lines(path), columns, "id", ("text",), "rating", score(-4, 4), on_bad_row)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file, numbered from 1. Only LF ends one: texts may hold what `str.splitlines` takes for an end.

    Raises:
      UserError: no such file, an empty one, or one that is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: expected a file, found none; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, found: {error.strerror}") from None
    data = data.removeprefix(_BOM).rstrip(b"\r\n")
    if not data:
        raise UserError(f"{path}: expected rows, found an empty file")
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: expected UTF-8, found byte 0x{line[error.start]:02x}; convert the file to UTF-8"
            ) from None


def _columns(header: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in header.split("\t"))


def _parse(
    path: Path,
    lines: Iterator[tuple[int, str]],
    columns: tuple[str, ...],
    id_column: str | None,
    texts: tuple[str, ...],
    label: str | None,
    parse_label: ParseLabel,
    on_bad_row: str,
) -> tuple[list[Row], list[str]]:
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"--config.on_bad_row: expected error or skip, found {on_bad_row!r}")
    rows: list[Row] = []
    skipped: list[str] = []
    for number, line in lines:
        try:
            row = _row(line.split("\t"), columns, id_column, texts, label, parse_label)
            rows.append(row if id_column else row._replace(id=str(len(rows) + len(skipped) + 1)))
        except ValueError as error:
            reason = f"{path}:{number}: {error}"
            if on_bad_row == "error":
                raise UserError(f"{reason}; fix the row or pass --config.on_bad_row=skip") from None
            skipped.append(reason)
    if not rows:
        why = f"all {len(skipped)} are bad, the first at {skipped[0]}" if skipped else "found only a header"
        raise UserError(f"{path}: expected rows, {why}")
    return rows, skipped


def _row(
    fields: list[str],
    columns: tuple[str, ...],
    id_column: str | None,
    texts: tuple[str, ...],
    label: str | None,
    parse_label: ParseLabel,
) -> Row:
    if len(fields) != len(columns):
        raise ValueError(f"expected {len(columns)} tab-separated columns, found {len(fields)}")
    values = dict(zip(columns, fields, strict=True))
    for name in texts:
        if not values[name].strip():
            raise ValueError(f"expected text in column {name}, found none")
    name = values[id_column].strip() if id_column else ""
    if label is None:
        return Row(name, tuple(values[text] for text in texts), None)
    if not values[label].strip():
        raise ValueError(f"expected a label in column {label}, found none")
    try:
        value = parse_label(values[label])
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    return Row(name, tuple(values[text] for text in texts), value)


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
