"""A file that is written whole or not at all, and through no link."""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Writes beside `path` what then takes its place: a link that stands there is replaced, its target untouched."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    with partial.open("xb") as file:  # "x": a link planted in between is not followed either
        file.write(data)
    os.replace(partial, path)
