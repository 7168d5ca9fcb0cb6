"""A lock that keeps a second process out of a folder."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bertjax.errors import UserError
from bertjax.files.atomic import unwritable

LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock_folder(workdir: Path) -> Iterator[None]:
    """Creates a folder if needed, and holds its lock; the operating system releases the lock of a dead process.

    Raises:
      UserError: the folder cannot be written, or another process holds its lock.
    """
    path = workdir / LOCK_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}); use another one") from None
    # No fallback: a lock that is a mere file outlives a killed process, and the run could not be resumed.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"--workdir: {workdir} is in use by another run, process {_holder(path)}; wait until it ends, or use "
            "another one"
        ) from None
    except OSError as error:  # some network file systems
        print(f"warning: {workdir} cannot be locked ({error.strerror}); start only one run there", file=sys.stderr)
    try:
        _write_pid(path)
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _write_pid(path: Path) -> None:
    """For the message of a process that finds the folder locked."""
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
