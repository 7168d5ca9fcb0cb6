"""A stored tensor, whatever the format of its file; and the shards of a checkpoint."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.files.json_files import MIB, check_shape, read_json

# Integers and 8-bit floats mean a quantised checkpoint, whose scales stand elsewhere.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


_REMEDY = "get it again"


_NORM = {"gamma": "weight", "beta": "bias"}


class StoredTensor(NamedTuple):
    """A tensor in a file, under Hugging Face's name and in its layout, [out, in]; read when asked for."""

    name: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def float32(self) -> np.ndarray:
        """The tensor as float32; UserError where it is stored as no float of 16 bits or more."""
        array = self.read()
        check_float(self.name, self.file, array.dtype.name)
        return array.astype(np.float32)


def check_float(name: str, file: Path, dtype: str) -> None:
    """UserError unless `dtype`, by safetensors' or by NumPy's name, is a float of 16 bits or more."""
    if dtype not in FLOATS and dtype not in FLOATS.values():
        raise UserError(f"{file}: tensor {name} is stored as {dtype}, expected one of {', '.join(FLOATS)}")


def collect_tensors(tensors: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors by their present-day names; UserError where one stands twice."""
    found: dict[str, StoredTensor] = {}
    for tensor in tensors:
        name = tensor.name.removeprefix("bert.")
        name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_NORM[m[1]]}", name)
        if name in found:
            raise UserError(f"{tensor.file}: tensor {name} stands twice in this checkpoint")
        found[name] = tensor._replace(name=name)
    return found


def shard_files(index: Path) -> Iterator[Path]:
    """The files that an index names, all in its own folder; UserError where it is broken or one is not there."""
    try:
        found = read_json(index, 16 * MIB, _REMEDY)
    except FileNotFoundError:  # gone since it was seen
        raise UserError(f"{index}: not found; {_REMEDY}") from None
    check_shape(found, {"weight_map": {str: str}}, index, _REMEDY)
    for file in sorted(set(found["weight_map"].values())):
        if Path(file).name != file:
            raise UserError(f"{index}: shard {file!r:.200} must be a file name in the same folder; get it again")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: shard {file!r:.200} is not in the folder; download it too")
        yield index.parent / file
