"""The state that a training step changes."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.models.forward import Params


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes.

    Attributes:
      step: updates so far, int32 []; those left out do not count.
      params: θ, float32.
      opt_state: the optimizer's.
      anchor: θ̃ of the Bregman term, which has moved after these parameters, or None without one.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    anchor: Params | None


def trainable(params: Params, tune: str) -> Params:
    """The part of the parameters that is trained: all of them, or the heads."""
    return params if tune == "all" else {name: x for name, x in params.items() if name.startswith("head_")}


def init_state(
    params: Params, tx: optax.GradientTransformation, settings: smart.SmartSettings, tune: str = "all"
) -> TrainState:
    """The state before the first update."""
    anchor = smart.init_anchor(params) if settings.has_bregman else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(trainable(params, tune)), anchor)
