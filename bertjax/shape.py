"""JSON of a stranger's, held to a shape before anything is taken out of it."""

from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown

_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}


def check(value: Any, shape: Any, path: Path, remedy: str, where: str = "") -> None:
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
            check(inner, shape[0], path, remedy, f"{where}[{i}]")
    elif isinstance(shape, dict):
        named = {name.removesuffix("?"): inner for name, inner in shape.items() if name is not str}
        for name, inner in (dict.fromkeys(value, shape.get(str)) | named).items():
            at = f"{where}.{name}" if where else name
            if name in value and inner is not None:
                check(value[name], inner, path, remedy, at)
            elif name not in value and name in shape:
                raise UserError(f"{path}: expected {at}, found none; {remedy}")
