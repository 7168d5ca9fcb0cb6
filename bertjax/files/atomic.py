"""A folder that is written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertjax.errors import UserError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out` to write to, which becomes `out` at the end, and is removed if anything fails.

    Raises:
      UserError: `out` is there already, or cannot be written.
    """
    if os.path.lexists(out):
        raise UserError(f"{out}: expected a new folder to write, found one that is there; remove it or name another")
    partial = out.with_name(f".{out.name}.partial")
    try:
        if partial.is_symlink():  # which `rmtree` leaves alone
            partial.unlink()
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); free space, or name another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file of such a folder; OSError where it cannot be written."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
