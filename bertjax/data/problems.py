"""Problems in data files, collected so that one message reports all of them."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bertjax.errors import UserError

MAX_SHOWN = 50
"""Maximum number of problems shown for one file; the others are counted."""
_SKIP = "pass --config.on_bad_row=skip"


class Problem(NamedTuple):
    """A problem in a file.

    Attributes:
      file: path of the file, or the flag that should name it.
      line: line number from 1, header included, or None for the whole file.
      what: what was expected and found, after the name of the column if there is one.
      remedy: what to do, or "" if that is obvious.
      is_row: whether `--config.on_bad_row=skip` would leave the line out.
    """

    file: str
    line: int | None
    what: str
    remedy: str = ""
    is_row: bool = False

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.what}"


class BadData(UserError):
    """All problems in some files.

    A single problem is reported in one line. For several, the first line gives their number and what to do, followed by
    one line for each, up to `MAX_SHOWN` a file.

    Attributes:
      problems: the problems in the order of the files, without duplicates.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__(*_lines(self.problems))

    def __reduce__(self) -> tuple[type["BadData"], tuple[tuple[Problem, ...]]]:
        # Exceptions of other processes arrive pickled; the default would pickle the message as the argument.
        return BadData, (self.problems,)


@contextlib.contextmanager
def collecting(problems: list[Problem]) -> Iterator[None]:
    """Catches a `BadData` raised in its body and adds its problems to a list."""
    try:
        yield
    except BadData as error:
        problems += error.problems


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raises `BadData` if there are any problems."""
    if problems := tuple(problems):
        raise BadData(problems)


def _lines(problems: tuple[Problem, ...]) -> list[str]:
    if len(problems) == 1:
        (problem,) = problems
        todo = f"{problem.remedy} or {_SKIP}" if problem.is_row else problem.remedy
        return [f"{problem}; {todo}" if todo else str(problem)]
    num_rows = len({(problem.file, problem.line) for problem in problems if problem.is_row})
    bad_rows = f"{num_rows} bad row" + "s" * (num_rows != 1)
    if not num_rows:
        todo = "fix them all"
    elif all(problem.is_row for problem in problems):
        todo = f"fix them all, or {_SKIP} to leave out the {bad_rows}"
    else:
        todo = f"fix them all, or all but the {bad_rows} and {_SKIP}"
    lines = [f"{len(problems)} problems in the data; {todo}"]
    by_file: dict[str, list[Problem]] = {}
    for problem in problems:
        by_file.setdefault(problem.file, []).append(problem)
    for file, of_file in by_file.items():
        # The remedy for rows is in the first line.
        lines += [str(p) if p.is_row or not p.remedy else f"{p}; {p.remedy}" for p in of_file[:MAX_SHOWN]]
        if len(of_file) > MAX_SHOWN:
            lines.append(f"… and {len(of_file) - MAX_SHOWN} more in {file}")
    return lines
