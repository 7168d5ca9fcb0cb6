"""Reads JSON and text files from untrusted folders: bounded in size, checked for shape."""

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown

MIB = 2**20


def read_text(path: Path, max_bytes: int) -> str:
    """Reads a UTF-8 file.

    Raises:
      UserError: the file has more than `max_bytes`.
      OSError: it cannot be read.
      UnicodeDecodeError: it is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UserError(f"{path}: expected at most {max_bytes:,} bytes, found more; get the file again from its author")
    return data.decode("utf-8")


def read_json(path: Path, remedy: str, shape: Any = None, max_bytes: int = MIB) -> Any:
    """Reads a JSON file and checks its shape.

    Args:
      path: the file.
      remedy: what to do if the file is not as expected; ends the error message.
      shape: see `check_shape`.
      max_bytes: maximum size of the file.

    Raises:
      FileNotFoundError: the file does not exist.
      UserError: the file cannot be read, is too large or nested too deeply, or is not JSON of this shape.
    """
    try:
        value = json.loads(read_text(path, max_bytes))
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: expected JSON, found something else ({why}); {remedy}") from None
    check_shape(value, shape, path, remedy)
    return value


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}


def check_shape(value: Any, shape: Any, path: Path, remedy: str, where: str = "") -> None:
    """Checks that a JSON value has the expected shape.

    Args:
      value: the value, as the `json` module returns it.
      shape: one of
        `None`: anything;
        `str`, `int`, or `float` for any number;
        `[shape]`: a list of values of this shape;
        `{name: shape}`: an object with these names. A name that ends in "?" is optional. The key `str` gives the shape
          of all other values, which may otherwise be anything.
      path: the file, for the error message.
      remedy: what to do; ends the error message.
      where: position of the value in the file, such as `dev.sst5.best`.

    Raises:
      UserError: the value has another shape.
    """
    if shape is None:
        return
    kind: Any = shape if isinstance(shape, type) else type(shape)
    if type(value) is not kind and not (kind is float and type(value) is int):
        at = f" as {where}" if where else ""
        raise UserError(f"{path}: expected {_KINDS[kind]}{at}, found {shown(value)}; {remedy}")
    if isinstance(shape, list):
        for i, item in enumerate(value):
            check_shape(item, shape[0], path, remedy, f"{where}[{i}]")
    elif isinstance(shape, dict):
        named = {name.removesuffix("?"): inner for name, inner in shape.items() if name is not str}
        for name, inner in (dict.fromkeys(value, shape.get(str)) | named).items():
            at = f"{where}.{name}" if where else name
            if name in value:
                check_shape(value[name], inner, path, remedy, at)
            elif name in shape:
                raise UserError(f"{path}: expected {at}, found none; {remedy}")
