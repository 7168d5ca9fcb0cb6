"""A path as a user gives it: with `~` for a home folder, which few shells expand within a flag."""

import os
from pathlib import Path

from bertjax.errors import UserError


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path, `~` and `~name` expanded; UserError where nobody of that name has a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{os.fspath(text)}: expected a home folder at '~', found none; write the path out") from None
