"""Reads safetensors files."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import safetensors

from bertjax.errors import UserError
from bertjax.pretrained.tensors import StoredTensor, check_float

_MAX_HEADER_BYTES = 16 * 2**20
"""BERT-large's header has 40,000. The library's own limit, 100 MB, would take several times that in memory."""


def read_safetensors(path: Path) -> Iterator[StoredTensor]:
    """Yields the tensors of a file; UserError if it is not a safetensors file or is broken."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise UserError(
                f"{path}: expected a header of at most {_MAX_HEADER_BYTES:,} bytes, found {size:,}; get the file again"
            )
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is not a mapping)
                yield StoredTensor(
                    name, path, tuple(file.get_slice(name).get_shape()), partial(_read_tensor, path, name)
                )
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); get it again") from None


def _read_tensor(path: Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        check_float(name, path, file.get_slice(name).get_dtype())
        array: np.ndarray = file.get_tensor(name)
        return array
