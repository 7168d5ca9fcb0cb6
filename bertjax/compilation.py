"""Steps compiled once and kept between runs: JAX's persistent compilation cache, in a folder of the user's own."""

import os
import stat
import sys
from pathlib import Path

import filelock
import jax

from bertjax.files.paths import cache_dir

MAX_BYTES = 2 * 2**30


MIN_COMPILE_SECONDS = 0.2
"""Of compilation, that make it worth keeping."""


def keep_compiled() -> None:
    """Has JAX keep what it compiles in the cache folder, unless the user has chosen a folder of JAX's own.

    What lies there is machine code that a later run executes, so nobody else may write to it: another's folder, or
    one that others can write to, is left alone, and a line on stderr says so.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = cache_dir() / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            print(
                f"warning: {folder}: expected a folder that only you can write to, found another: steps are compiled "
                "anew; delete it, or set BERTJAX_CACHE",
                file=sys.stderr,
            )
            return
        _drop_unfinished(folder)
    except OSError as error:
        print(f"warning: {folder} cannot be used ({error.strerror}): steps are compiled anew", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _drop_unfinished(folder: Path) -> None:
    """Deletes what a kill or a full disk left half written: JAX would stumble over it at every run, and never mend it.

    JAX writes an entry, then the file with the time of its last use, under a lock.
    """
    with filelock.FileLock(folder / ".lockfile"):
        for entry in folder.glob("*-cache"):
            used = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
            if not used.exists() or used.stat().st_size != 8:
                entry.unlink()
                used.unlink(missing_ok=True)
