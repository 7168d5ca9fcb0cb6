"""Paths given by users, and the cache folder."""

import os
from pathlib import Path

from bertjax.errors import UserError


def user_path(text: str | os.PathLike[str]) -> Path:
    """Expands `~` and `~name`; UserError if there is no such home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{os.fspath(text)}: expected a home folder at '~', found none; write out the path") from None


def cache_dir() -> Path:
    """The cache folder: $BERTJAX_CACHE, $XDG_CACHE_HOME/bertjax or ~/.cache/bertjax."""
    if own := os.environ.get("BERTJAX_CACHE"):
        return user_path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "bertjax"
