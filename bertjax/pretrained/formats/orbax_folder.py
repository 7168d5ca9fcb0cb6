"""Parameters in an Orbax folder: in a run's checkpoints, and as `convert` writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from bertjax.errors import UserError, reason
from bertjax.models.config import BertConfig
from bertjax.pretrained.param_names import (
    FlatParams,
    ParamPath,
    TensorShape,
    describe_mismatch,
    expected_names,
    param_shapes,
    pooler_paths,
    pretraining_head_names,
)


def read_orbax(folder: Path, config: BertConfig) -> FlatParams:
    """Reads parameters to the host; UserError if they cannot be read or do not fit the architecture."""
    import orbax.checkpoint as ocp  # takes a second to import, and most checkpoints have another format

    handler = ocp.PyTreeCheckpointHandler()
    try:
        metadata = handler.metadata(folder.absolute()).tree
        # Compared before anything is read: a small file may decompress to a huge array.
        found = {"/".join(path): tuple(leaf.shape) for path, leaf in _flatten(metadata).items()}
        expected = {"/".join(path): shape for path, shape in _expected_shapes(_flatten(metadata), config).items()}
        if mismatch := describe_mismatch(found, expected):
            raise UserError(f"{folder}: parameters do not fit config.json: {mismatch}")
        # As NumPy arrays: the devices that wrote them may not exist on this machine.
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        tree = handler.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=restore_args))
    except UserError:
        raise
    except Exception as error:  # errors of Orbax and TensorStore have no common base
        raise UserError(f"{folder}: not a readable Orbax checkpoint ({reason(error)}); write it again") from None
    finally:
        handler.close()
    return _flatten(tree)


def write_orbax(folder: Path, params: FlatParams) -> None:
    """Writes parameters for `read_orbax`; OSError if they cannot be written."""
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), flax.traverse_util.unflatten_dict(params))
    except (ValueError, RuntimeError) as error:  # TensorStore's errors
        raise OSError(reason(error)) from None


def _flatten(tree: Any) -> dict[ParamPath, Any]:
    flat: dict[ParamPath, Any] = flax.traverse_util.flatten_dict(tree)
    return flat


def _expected_shapes(params: Mapping[ParamPath, Any], config: BertConfig) -> dict[ParamPath, TensorShape]:
    parts = {path[0] for path in params}
    names = expected_names(config, parts)
    shapes = param_shapes(config)
    expected = {path: shapes[path] for path in (*names, *(pooler_paths(config) if "pooler" in parts else ()))}
    for part in parts:
        if part == "classifier" or (part.startswith("head_") and part not in pretraining_head_names(config)):
            bias = tuple(params[part, "bias"].shape) if (part, "bias") in params else (0,)
            expected |= {(part, "bias"): bias, (part, "kernel"): (config.hidden_size, *bias)}
    return expected
