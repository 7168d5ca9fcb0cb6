"""The one exception for what a user can put right, and what its message may quote."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable
from typing import Any

_MOST = 4000


_QUOTE = reprlib.Repr()


_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 80


class UserError(ValueError):
    """Something a user can put right: bad data, a wrong flag, a checkpoint that does not fit.

    Its message is one line that says what was expected, what was found, where, and what to do; where data have
    several problems, a line for each. `train.py` and `eval.py` print it to stderr without a traceback and exit with
    status 2.
    """

    def __init__(self, *lines: str):
        # What a line quotes of a stranger's file may hold line ends, commands to the terminal, half a surrogate pair.
        super().__init__("\n".join(_printable(line if len(line) <= _MOST else line[:_MOST] + "…") for line in lines))

    def __reduce__(self) -> tuple[Any, ...]:
        # From another process an exception comes pickled, by default as its message, whose line ends would be quoted.
        return type(self), tuple(str(self).split("\n"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: "; did you mean 'x'?", or nothing if none is near."""
    matches = difflib.get_close_matches(name[:80], list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def shown(value: Any) -> str:
    """A value out of a stranger's file, for a message: `repr`, but however deep or long the value, short."""
    try:
        return _QUOTE.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a huge {type(value).__name__}"


def reason(error: BaseException) -> str:
    """What another library's error says, on one short line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # of tensorstore's, which tells much more besides
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
