"""The one exception for what a user can put right."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something a user can put right: bad data, a wrong flag, a checkpoint that does not fit.

    Its message is one line that says what was expected, what was found, where, and what to do; where data have
    several problems, a line for each. `train.py` and `eval.py` print it to stderr without a traceback and exit with
    status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: "; did you mean 'x'?", or nothing if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
