"""Reads `flax_model.msgpack`, whole or a shard, as Transformers wrote it until version 4."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import flax.serialization
import flax.traverse_util
import msgpack
import numpy as np

from bertjax.errors import UserError, reason
from bertjax.pretrained.param_names import torch_name
from bertjax.pretrained.tensors import StoredTensor


def read_flax(path: Path) -> Iterator[StoredTensor]:
    """Yields the tensors of a file; UserError if it is not a Flax file or is broken."""
    try:
        data = path.read_bytes()
        _check_lengths(data)
        flat = flax.traverse_util.flatten_dict(flax.serialization.msgpack_restore(data), sep="/")
        arrays = {name: np.asarray(array) for name, array in flat.items()}
    except Exception as error:  # errors of msgpack and NumPy have no common base
        raise UserError(f"{path}: not a readable Flax file ({reason(error)}); get it again") from None
    for slashed_name, array in arrays.items():
        name, is_transposed = torch_name(slashed_name)
        array = array.T if is_transposed else array
        yield StoredTensor(name, path, array.shape, partial(np.asarray, array))


def _check_lengths(data: bytes) -> None:
    """Raises if a list is longer than a shape can be: msgpack allocates a list's stated length before it reads it."""

    def check_packed(code: int, packed: bytes) -> None:
        msgpack.unpackb(packed, raw=True, max_array_len=64, max_map_len=0, max_ext_len=0)

    msgpack.unpackb(data, ext_hook=check_packed, raw=False, strict_map_key=True, max_array_len=64)
