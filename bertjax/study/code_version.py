"""The version of the code that produced a result."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@functools.cache
def code_version() -> str:
    """The package's version and, in a git checkout, its commit: "0.1.0 e27a024", with a "+" if files are modified."""
    version = importlib.metadata.version("bertjax")
    try:
        # Fails where the package is untracked, as in a virtual environment inside another project's checkout.
        _git("ls-files", "--error-unmatch", "__init__.py")
        commit, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} {commit}{'+' if changes else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", _PACKAGE, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
