"""Tensors of a safetensors file."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import safetensors

from bertjax.errors import UserError
from bertjax.pretrained.stored import Stored, check_float


def read(path: Path) -> Iterator[Stored]:
    """The tensors of a file; UserError where it is none or broken."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is no mapping)
                yield Stored(name, path, tuple(file.get_slice(name).get_shape()), partial(_tensor, path, name))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _tensor(path: Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        check_float(name, path, file.get_slice(name).get_dtype())
        array: np.ndarray = file.get_tensor(name)
        return array
