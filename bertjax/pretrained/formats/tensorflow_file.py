"""Reads Google's BERT checkpoints with TensorFlow; no maintained reader works without it."""

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
from bertjax.pretrained.param_names import torch_name
from bertjax.pretrained.tensors import StoredTensor

_OPTIMIZER = re.compile(r"global_step|.*/adam_[mv]")


def read_tensorflow(prefix: Path) -> Iterator[StoredTensor]:
    """Yields the tensors of a checkpoint, without the optimizer's.

    Args:
      prefix: path of `PREFIX.index` and `PREFIX.data-00000-of-00001`.

    Raises:
      UserError: TensorFlow is not installed, or a file is broken.
    """
    reader = _open(prefix)
    for stored, shape in sorted(reader.get_variable_to_shape_map().items()):
        if _OPTIMIZER.fullmatch(stored):
            continue
        name, is_transposed = torch_name(stored)
        shape = tuple(reversed(shape)) if is_transposed else tuple(shape)
        yield StoredTensor(name, prefix, shape, partial(_read_tensor, reader, prefix, stored, is_transposed))


def _read_tensor(reader: Any, prefix: Path, stored: str, is_transposed: bool) -> np.ndarray:
    try:
        array: np.ndarray = reader.get_tensor(stored)
    except Exception as error:  # TensorFlow's errors have no narrower base
        raise UserError(_unreadable(prefix, error)) from None
    return array.T if is_transposed else array


def _open(prefix: Path) -> Any:
    try:
        with _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise UserError(
            f"{prefix}: reading Google's checkpoints needs TensorFlow, which is not installed ({error}); "
            'pip install "tensorflow>=2.20"'
        ) from None
    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except Exception as error:
        raise UserError(_unreadable(prefix, error)) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Hides what TensorFlow's C++ code writes while it is imported, which is about devices and not about files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:  # C++ writes to the file descriptor, not to sys.stderr
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _unreadable(prefix: Path, error: Exception) -> str:
    return f"{prefix}: not a readable TensorFlow checkpoint ({' '.join(str(error).split())}); get both its files again"
