"""Tensors of `flax_model.msgpack`, as Transformers wrote it until version 4."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import flax.serialization
import flax.traverse_util
import msgpack
import numpy as np

from bertjax.errors import UserError, reason
from bertjax.pretrained.param_names import from_slashed
from bertjax.pretrained.tensors import StoredTensor


def read_flax(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a file; UserError where it is none or broken."""
    try:
        data = path.read_bytes()
        _check_lengths(data)
        flat = flax.traverse_util.flatten_dict(flax.serialization.msgpack_restore(data), sep="/")
        arrays = {name: np.asarray(array) for name, array in flat.items()}
    except Exception as error:  # msgpack's and NumPy's, without a common base
        raise UserError(f"{path}: not a readable Flax file ({reason(error)}); get it again") from None
    for stored, array in arrays.items():
        name, is_transposed = from_slashed(stored)
        array = array.T if is_transposed else array
        yield StoredTensor(name, path, array.shape, partial(np.asarray, array))


def _check_lengths(data: bytes) -> None:
    """Raises where a list claims more than a shape has: msgpack makes room for all of it before it looks for it."""

    def inside(code: int, packed: bytes) -> None:
        msgpack.unpackb(packed, raw=True, max_array_len=64, max_map_len=0, max_ext_len=0)

    msgpack.unpackb(data, ext_hook=inside, raw=False, strict_map_key=True, max_array_len=64)
