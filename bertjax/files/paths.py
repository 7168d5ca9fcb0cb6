"""Paths: `~` expanded, and the cache folder."""

import os
from pathlib import Path

from bertjax.errors import UserError


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path, `~` and `~name` expanded; UserError where nobody of that name has a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{os.fspath(text)}: expected a home folder at '~', found none; write the path out") from None


def cache_dir() -> Path:
    """The folder for what bertjax fetches and prepares: $BERTJAX_CACHE, $XDG_CACHE_HOME/bertjax or ~/.cache/bertjax."""
    if own := os.environ.get("BERTJAX_CACHE"):
        return user_path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "bertjax"
