"""Parameters in an Orbax folder, as a run's checkpoints and converted checkpoints hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from bertjax.errors import UserError, reason
from bertjax.models.config import BertConfig
from bertjax.pretrained.param_names import (
    TensorPath,
    TensorShape,
    head_names,
    head_shapes,
    is_kernel,
    misfits,
    tensor_names,
    tensor_shapes,
)

Parameters = dict[TensorPath, np.ndarray]


def read_orbax(folder: Path, config: BertConfig) -> Parameters:
    """Reads parameters by their paths, on the host; UserError where they do not fit the architecture."""
    import orbax.checkpoint as ocp  # a second to import, and most checkpoints are others'

    handler = ocp.PyTreeCheckpointHandler()
    try:
        described = handler.metadata(folder.absolute()).tree
        # Before anything is read: what is stored may unpack to far more.
        found = {"/".join(path): tuple(leaf.shape) for path, leaf in _flat(described).items()}
        expected = {"/".join(path): shape for path, shape in _expected(_flat(described), config).items()}
        if problem := misfits(found, expected):
            raise UserError(f"{folder}: parameters do not fit config.json: {problem}")
        # As NumPy arrays: a run's own devices may not be here.
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described)
        tree = handler.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=restore_args))
    except UserError:
        raise
    except Exception as error:  # Orbax's and TensorStore's, without a common base
        raise UserError(f"{folder}: no readable checkpoint of Orbax's ({reason(error)}); make it anew") from None
    finally:
        handler.close()
    return _flat(tree)


def write_orbax(folder: Path, params: Parameters) -> None:
    """Writes parameters, to be read by `read`; OSError where they cannot be written."""
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), flax.traverse_util.unflatten_dict(params))
    except (ValueError, RuntimeError) as error:  # tensorstore's own
        raise OSError(reason(error)) from None


def _flat(tree: Any) -> dict[TensorPath, Any]:
    flat: dict[TensorPath, Any] = flax.traverse_util.flatten_dict(tree)
    return flat


def _expected(params: Mapping[TensorPath, Any], config: BertConfig) -> dict[TensorPath, TensorShape]:
    shapes = tensor_shapes(config) | head_shapes(config)
    names = tensor_names(config)
    tops = {path[0] for path in params}
    if "pooler" not in tops:
        names = {path: name for path, name in names.items() if path[0] != "pooler"}
    for head, more in head_names().items():
        if head in tops:
            names |= more
    expected = {path: shapes[name][::-1] if is_kernel(path) else shapes[name] for path, name in names.items()}
    for top in tops:
        if top == "classifier" or (top.startswith("head_") and top not in head_names()):
            bias = tuple(params[top, "bias"].shape) if (top, "bias") in params else (0,)
            expected |= {(top, "bias"): bias, (top, "kernel"): (config.hidden_size, *bias)}
    return expected
