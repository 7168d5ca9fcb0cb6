"""JAX's persistent compilation cache, in a folder that only the user can write to."""

import os
import stat
import sys
from pathlib import Path

import filelock
import jax

from bertjax.files.paths import cache_dir

MAX_BYTES = 2 * 2**30
MIN_COMPILE_SECONDS = 0.2
"""Steps that compile faster than this are not cached."""


def enable_compilation_cache() -> None:
    """Lets JAX cache compiled steps in bertjax's cache folder, unless the user has set JAX's own cache folder.

    Later runs execute the machine code in that folder. A folder that another user owns or can write to is therefore
    not used, with a warning on stderr.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = cache_dir() / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            print(
                f"warning: {folder}: expected a folder that only you can write to, found another; compiled steps are "
                "not cached; delete it, or set BERTJAX_CACHE",
                file=sys.stderr,
            )
            return
        _delete_incomplete_entries(folder)
    except OSError as error:
        print(f"warning: {folder} cannot be used ({error.strerror}); compiled steps are not cached", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _delete_incomplete_entries(folder: Path) -> None:
    """Deletes entries that a kill or a full disk left half written: JAX fails to read them and never replaces them.

    Under a lock, JAX writes an entry and then a file with the time of its last use.
    """
    with filelock.FileLock(folder / ".lockfile"):
        for entry in folder.glob("*-cache"):
            last_use = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
            if not last_use.exists() or last_use.stat().st_size != 8:
                entry.unlink()
                last_use.unlink(missing_ok=True)
