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


def read_json(path: Path, most: int, remedy: str) -> Any:
    """The value in a JSON file.

    Args:
      path: the file.
      most: bytes that it may have.
      remedy: what to do where it holds something else: the message's end.

    Raises:
      FileNotFoundError: there is none.
      UserError: it cannot be read, is too large or too deep, or holds something else.
    """
    try:
        return json.loads(read_text(path, most))
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: expected JSON, found something else ({why}); {remedy}") from None
