"""What is wrong with the files of a run, gathered so that one message tells all of it."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bertjax.errors import UserError

SHOWN = 50
"""Problems told of one file; the rest are counted."""


_SKIP = "pass --config.on_bad_row=skip"


class Problem(NamedTuple):
    """Something that is wrong with a file.

    Attributes:
      file: its path, or the flag that should name it.
      line: counted from 1, the header included, or None for the file as a whole.
      what: was expected and found, after the column's name, if it is about one.
      remedy: what to do, if that goes without saying "".
      is_row: whether `--config.on_bad_row=skip` would leave it out.
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
    """All that is wrong with some files.

    Its message is one line for one problem. For several, the first line counts them and says what to do, and each has
    a line of its own, up to `SHOWN` a file.

    Attributes:
      problems: in the order of the files, each once.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__(*_lines(self.problems))

    def __reduce__(self) -> tuple[type["BadData"], tuple[tuple[Problem, ...]]]:
        # From another process an exception comes pickled, by default as its message.
        return BadData, (self.problems,)


@contextlib.contextmanager
def gathered(problems: list[Problem]) -> Iterator[None]:
    """Adds what a `BadData` raised within it tells to a list, and goes on."""
    try:
        yield
    except BadData as error:
        problems += error.problems


def refuse(problems: Iterable[Problem]) -> None:
    """Raises `BadData` if there are any problems."""
    if problems := tuple(problems):
        raise BadData(problems)


def _lines(problems: tuple[Problem, ...]) -> list[str]:
    if len(problems) == 1:
        (problem,) = problems
        todo = f"{problem.remedy} or {_SKIP}" if problem.is_row else problem.remedy
        return [f"{problem}; {todo}" if todo else str(problem)]
    rows = len({(problem.file, problem.line) for problem in problems if problem.is_row})
    bad_rows = f"{rows} bad row" + "s" * (rows != 1)
    if not rows:
        todo = "fix them all"
    elif all(problem.is_row for problem in problems):
        todo = f"fix them all, or {_SKIP} to go on without the {bad_rows}"
    else:
        todo = f"fix them all, or all but the {bad_rows} and {_SKIP}"
    lines = [f"{len(problems)} problems in the data; {todo}"]
    by_file: dict[str, list[Problem]] = {}
    for problem in problems:
        by_file.setdefault(problem.file, []).append(problem)
    for file, found in by_file.items():
        # The first line says what to do about rows.
        lines += [str(p) if p.is_row or not p.remedy else f"{p}; {p.remedy}" for p in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"… and {len(found) - SHOWN} more in {file}")
    return lines
