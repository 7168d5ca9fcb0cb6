"""Lines of UTF-8 files, each with what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bertjax.data.problems import BadData, Problem

_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line of a file.

    Attributes:
      number: line number from 1.
      text: the text without its line ending; invalid UTF-8 is replaced.
      flaw: what was expected and found if the line is not text, else "".
    """

    number: int
    text: str
    flaw: str


def read_lines(path: Path) -> Iterator[Line]:
    """Reads the lines of a file, without empty lines at its end.

    Raises:
      BadData: the file does not exist, cannot be read or is empty.
    """
    data = _read(path).rstrip(b"\r\n")
    if not data.removeprefix(_BOM):
        raise BadData([Problem(str(path), None, "expected rows, found an empty file", "add rows")])
    return split_lines(data)


def split_lines(data: bytes) -> Iterator[Line]:
    """Splits a file's bytes at LF and CRLF only: texts may hold other characters that `str.splitlines` splits at."""
    for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            flaw = f"expected UTF-8, found byte 0x{line[error.start]:02x}"
            yield Line(number, line.decode("utf-8", errors="replace"), flaw)
        else:
            yield Line(number, text, "expected text, found a NUL byte" if "\0" in text else "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadData([Problem(str(path), None, "expected a file, found none", "check the path")]) from None
    except OSError as error:
        what = f"expected a readable file, found: {error.strerror}"
        raise BadData([Problem(str(path), None, what, "check the path")]) from None
