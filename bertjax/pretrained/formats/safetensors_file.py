"""Tensors of a safetensors file."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import safetensors

from bertjax.errors import UserError
from bertjax.pretrained.tensors import StoredTensor, check_float

_MOST = 16 * 2**20
"""Bytes of a header; one of BERT-large's has 40,000. The library itself stops at 100 MB, in memory many times that."""


def read_safetensors(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a file; UserError where it is none or broken."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _MOST:
            raise UserError(f"{path}: expected a header of at most {_MOST:,} bytes, found {size:,}; get the file again")
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is no mapping)
                yield StoredTensor(name, path, tuple(file.get_slice(name).get_shape()), partial(_tensor, path, name))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); get it again") from None


def _tensor(path: Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        check_float(name, path, file.get_slice(name).get_dtype())
        array: np.ndarray = file.get_tensor(name)
        return array
