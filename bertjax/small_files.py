"""Files of text that are small by their nature, read only if they are: a stranger's may have any size, or no end."""

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError

MIB = 2**20


def read_text(path: Path, most: int) -> str:
    """The text of a UTF-8 file.

    Args:
      path: the file.
      most: bytes that it may have.

    Raises:
      UserError: it has more.
      OSError: it cannot be read.
      UnicodeDecodeError: it is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path}: expected at most {most:,} bytes, found more; get the file from whoever made it")
    return data.decode("utf-8")


def read_json(path: Path, most: int) -> Any:
    """The value in a JSON file; ValueError where it is none, or too deep; args and errors else as of `read_text`."""
    text = read_text(path, most)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
