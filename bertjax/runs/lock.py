"""A lock that keeps a second process out of a folder."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bertjax.errors import UserError
from bertjax.files.atomic import unwritable

LOCK_FILE = ".lock"
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network ones."""


@contextlib.contextmanager
def lock_folder(workdir: Path) -> Iterator[None]:
    """Creates a folder if needed, and holds its lock; the operating system releases the lock of a dead process.

    Raises:
      UserError: the folder cannot be written, or another process holds its lock.
    """
    path, lock = workdir / LOCK_FILE, FileLock(workdir / LOCK_FILE, timeout=0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"--workdir: {workdir} is in use by another run, process {path.read_text().strip()}; wait until it ends, "
            "or use another one"
        ) from None
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}); use another one") from None
        print(f"warning: {workdir} cannot be locked ({error.strerror}); start only one run there", file=sys.stderr)
    try:
        _write_pid(path)
        yield
    finally:
        lock.release()


def _write_pid(path: Path) -> None:
    """For the message of a process that finds the folder locked."""
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
