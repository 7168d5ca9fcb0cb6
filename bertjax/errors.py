"""UserError, the exception for mistakes a user can fix, and helpers that keep its message short and printable."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable
from typing import Any

_MAX_LINE_LENGTH = 4000
_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 80


class UserError(ValueError):
    """A mistake the user can fix: bad data, a wrong flag, a checkpoint that does not fit.

    The message is one line: where, what was expected, what was found and what to do. Several problems in data are one
    line each. `train.py` and `eval.py` print the message to stderr without a traceback and exit with status 2.
    """

    def __init__(self, *lines: str):
        # Text quoted from a user's file may contain line ends, terminal escape codes or half a surrogate pair.
        lines = tuple(line if len(line) <= _MAX_LINE_LENGTH else line[:_MAX_LINE_LENGTH] + "…" for line in lines)
        super().__init__("\n".join(map(printable, lines)))

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is pickled as its whole message, and __init__ would then escape the line ends.
        return type(self), tuple(str(self).split("\n"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?", or "" if no known name is similar."""
    matches = difflib.get_close_matches(name[:80], list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def shown(value: Any) -> str:
    """`repr` for a message, short however long or deeply nested the value."""
    try:
        return _SHORT_REPR.repr(value)
    except ValueError:  # an integer with more digits than Python converts to text
        return f"a huge {type(value).__name__}"


def reason(error: BaseException) -> str:
    """The message of another library's error, on one short line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # tensorstore's messages are long
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


def printable(text: str) -> str:
    """The text with line ends, terminal escape codes and the like spelt out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
