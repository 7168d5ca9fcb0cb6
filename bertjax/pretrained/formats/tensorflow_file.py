"""Tensors of Google's own BERT checkpoints, by TensorFlow's reader: there is no well-kept one without it."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.pretrained.param_names import from_slashed
from bertjax.pretrained.tensors import StoredTensor

_OPTIMIZER = re.compile(r"global_step|.*/adam_[mv]")


def read_tensorflow(prefix: Path) -> Iterator[StoredTensor]:
    """The tensors of a checkpoint, those of the optimizer left out.

    Args:
      prefix: of the files `PREFIX.index` and `PREFIX.data-00000-of-00001`.

    Raises:
      UserError: no TensorFlow here, or a broken file.
    """
    reader = _open(prefix)
    for stored, shape in sorted(reader.get_variable_to_shape_map().items()):
        if _OPTIMIZER.fullmatch(stored):
            continue
        name, is_transposed = from_slashed(stored)
        shape = tuple(reversed(shape)) if is_transposed else tuple(shape)
        yield StoredTensor(name, prefix, shape, partial(_tensor, reader, prefix, stored, is_transposed))


def _tensor(reader: Any, prefix: Path, stored: str, is_transposed: bool) -> np.ndarray:
    try:
        array: np.ndarray = reader.get_tensor(stored)
    except Exception as error:  # TensorFlow's have no other base
        raise UserError(_complaint(prefix, error)) from None
    return array.T if is_transposed else array


def _open(prefix: Path) -> Any:
    try:
        with _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise UserError(
            f"{prefix}: expected TensorFlow, to read a checkpoint of Google's, found none ({error}); "
            'pip install "tensorflow>=2.20"'
        ) from None
    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except Exception as error:  # as above
        raise UserError(_complaint(prefix, error)) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps off the screen what TensorFlow's C++ half writes while it is imported: of devices, and not of files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # it writes to the descriptor, which Python's own stderr does not own
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def _complaint(prefix: Path, error: Exception) -> str:
    return f"{prefix}: not a readable TensorFlow checkpoint ({' '.join(str(error).split())}); get both its files again"
