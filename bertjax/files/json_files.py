"""JSON and text files from untrusted folders: bounded in size and checked for shape."""

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown

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


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}


def check_shape(value: Any, shape: Any, path: Path, remedy: str, where: str = "") -> None:
    """Refuses a value of another shape.

    Args:
      value: as the `json` module gives it.
      shape: `str`, `int`, or `float` for any number; `[shape]` for a list of such; `{name: shape}` for an object with
        these names and perhaps others, which may be anything, or what stands by `str`; `"name?"` may be missing.
      path: of the file, for the message.
      remedy: the message's end.
      where: in the file, as `dev.sst5.best`.

    Raises:
      UserError: it is of another shape.
    """
    kind: Any = shape if isinstance(shape, type) else type(shape)
    if type(value) is not kind and not (kind is float and type(value) is int):
        at = f" as {where}" if where else ""
        raise UserError(f"{path}: expected {_KINDS[kind]}{at}, found {shown(value)}; {remedy}")
    if isinstance(shape, list):
        for i, inner in enumerate(value):
            check_shape(inner, shape[0], path, remedy, f"{where}[{i}]")
    elif isinstance(shape, dict):
        named = {name.removesuffix("?"): inner for name, inner in shape.items() if name is not str}
        for name, inner in (dict.fromkeys(value, shape.get(str)) | named).items():
            at = f"{where}.{name}" if where else name
            if name in value and inner is not None:
                check_shape(value[name], inner, path, remedy, at)
            elif name not in value and name in shape:
                raise UserError(f"{path}: expected {at}, found none; {remedy}")
