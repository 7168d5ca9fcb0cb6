"""Parameters in an Orbax folder, as a run's checkpoints and converted checkpoints hold them."""

from pathlib import Path

import flax.traverse_util
import jax
import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.pretrained.names import (
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


def read(folder: Path, config: BertConfig) -> Parameters:
    """Reads parameters by their paths, on the host; UserError where they do not fit the architecture."""
    import orbax.checkpoint as ocp  # a second to import, and most checkpoints are others'

    handler = ocp.PyTreeCheckpointHandler()
    try:
        # As NumPy arrays: a run's own devices may not be here.
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
        tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=restore_args))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder}: no readable checkpoint of Orbax's ({reason}); make it anew") from None
    finally:
        handler.close()
    params: Parameters = flax.traverse_util.flatten_dict(tree)
    found = {"/".join(path): array.shape for path, array in params.items()}
    expected = {"/".join(path): shape for path, shape in _expected(params, config).items()}
    if problem := misfits(found, expected):
        raise UserError(f"{folder}: parameters do not fit config.json: {problem}")
    return params


def write(folder: Path, params: Parameters) -> None:
    """Writes parameters, to be read by `read`."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), flax.traverse_util.unflatten_dict(params))


def _expected(params: Parameters, config: BertConfig) -> dict[TensorPath, TensorShape]:
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
            bias = params.get((top, "bias"), np.empty(0)).shape
            expected |= {(top, "bias"): bias, (top, "kernel"): (config.hidden_size, *bias)}
    return expected
