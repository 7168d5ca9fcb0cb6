"""The state of a training run: what each update changes."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.models.forward import Params


class TrainState(flax.struct.PyTreeNode):
    """Everything that an update changes.

    Attributes:
      step: Updates so far, int32 []; skipped ones do not count.
      params: θ, float32.
      opt_state: The optimizer's state.
      anchor: θ̃ of the Bregman term, updated after `params`; None without the term.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    anchor: Params | None


def trainable(params: Params, tune: str) -> Params:
    """The parameters that are trained: all, or with tune = "head" only the heads."""
    if tune == "all":
        return params
    return {name: tree for name, tree in params.items() if name == "mlm" or name.startswith("head_")}


def init_state(
    params: Params, tx: optax.GradientTransformation, settings: smart.SmartSettings | None = None, tune: str = "all"
) -> TrainState:
    """The state before the first update; the optimizer's state covers only the trainable parameters."""
    anchor = smart.init_anchor(params) if settings is not None and settings.has_bregman else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(trainable(params, tune)), anchor)
