"""Tensors of `flax_model.msgpack`, as Transformers wrote it until version 4."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import flax.serialization
import flax.traverse_util
import numpy as np

from bertjax.errors import UserError
from bertjax.pretrained.slashed_names import present_day
from bertjax.pretrained.stored import Stored


def read(path: Path) -> Iterator[Stored]:
    """The tensors of a file; UserError where it is none or broken."""
    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())
        flat = flax.traverse_util.flatten_dict(tree, sep="/")
        arrays = {name: np.asarray(array) for name, array in flat.items()}
    except Exception as error:  # msgpack's and NumPy's, without a common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable Flax file ({reason}); get it again") from None
    for stored, array in arrays.items():
        name, is_transposed = present_day(stored)
        array = array.T if is_transposed else array
        yield Stored(name, path, array.shape, partial(np.asarray, array))
