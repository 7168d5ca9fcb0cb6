"""Tensors as stored in a checkpoint's files, the same for every format, and the shards of a checkpoint."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.files.json_files import MIB, read_json

# Integers and 8-bit floats mean a quantised checkpoint, with scales stored elsewhere.
_FLOAT_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""NumPy's dtypes by safetensors' names."""
_LAYER_NORM = {"gamma": "weight", "beta": "bias"}
_REMEDY = "get it again"


class StoredTensor(NamedTuple):
    """A tensor in a file, read when `read` is called.

    Attributes:
      name: Hugging Face's name.
      file: the file, for error messages.
      shape: its shape in PyTorch's layout, [out, in] for weights.
      read: returns the array.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def float32(self) -> np.ndarray:
        """Reads the tensor as float32; UserError unless it is stored as a float of at least 16 bits."""
        array = self.read()
        check_float(self.name, self.file, array.dtype.name)
        return array.astype(np.float32)


def check_float(name: str, file: Path, dtype: str) -> None:
    """UserError unless `dtype`, by safetensors' or NumPy's name, is a float of at least 16 bits."""
    if dtype not in _FLOAT_DTYPES and dtype not in _FLOAT_DTYPES.values():
        raise UserError(f"{file}: tensor {name} is stored as {dtype}, expected one of {', '.join(_FLOAT_DTYPES)}")


def collect_tensors(tensors: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors by their current names; UserError if one appears twice."""
    collected: dict[str, StoredTensor] = {}
    for tensor in tensors:
        name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_LAYER_NORM[m[1]]}", tensor.name)
        if name in collected:
            raise UserError(f"{tensor.file}: tensor {name} appears twice in this checkpoint")
        collected[name] = tensor._replace(name=name)
    return collected


def shard_files(index: Path) -> Iterator[Path]:
    """Yields the files that an index names, all in its folder; UserError if it is broken or a file is missing."""
    try:
        content = read_json(index, _REMEDY, {"weight_map": {str: str}}, max_bytes=16 * MIB)
    except FileNotFoundError:  # removed since the caller saw it
        raise UserError(f"{index}: not found; {_REMEDY}") from None
    for file in sorted(set(content["weight_map"].values())):
        if Path(file).name != file:
            raise UserError(f"{index}: shard {file!r:.200} must be a file name in the same folder; {_REMEDY}")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: shard {file!r:.200} is not in the folder; download it too")
        yield index.parent / file
