"""Which code made a result."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path

_FOLDER = Path(__file__).parent


@functools.cache
def code_version() -> str:
    """The package's version and, in a git checkout, its commit: "0.1.0 e27a024", with a + where files are changed."""
    version = importlib.metadata.version("bertjax")
    try:
        # A virtual environment within another project's checkout is tracked by nobody.
        _git("ls-files", "--error-unmatch", "__init__.py")
        commit, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} {commit}{'+' if changes else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", _FOLDER, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
