"""Files and folders that are written whole or not at all."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertjax.errors import UserError


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all.

    A link at `path` is replaced and its target left unchanged.

    Raises:
      OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    with partial.open("xb") as file:  # "x": does not follow a link planted in between
        file.write(data)
    os.replace(partial, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Like `replace_file`, but raises UserError if the file cannot be written."""
    try:
        replace_file(path, data)
    except OSError as error:
        raise unwritable(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all; UserError if it cannot be written."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; UserError if it cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be written."""
    return UserError(
        f"{path}: cannot be written ({error.strerror}); free space or make the folder writable, then run the same "
        "command again"
    )


def unwritable_cache(path: Path, error: OSError) -> UserError:
    """The error for a file or folder of the cache that cannot be written."""
    return UserError(f"{path}: cannot be written ({error}); free space, or set BERTJAX_CACHE to a folder you can write")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `out` at the end, and is removed on any error.

    Raises:
      UserError: `out` already exists, or cannot be written.
    """
    if os.path.lexists(out):
        raise UserError(f"{out}: expected a new folder to write, found an existing one; remove it or name another")
    partial = out.with_name(f".{out.name}.partial")
    try:
        if partial.is_symlink():  # `rmtree` does not remove links
            partial.unlink()
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); free space, or name another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def cached_folder(destination: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `destination` at the end, unless another process was faster.

    Raises:
      UserError: the cache cannot be written.
    """
    unfinished = destination.with_name(f".{destination.name}-{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        try:
            unfinished.rename(destination)
        except OSError:
            if not destination.is_dir():
                raise
    except OSError as error:
        raise unwritable_cache(destination, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
