"""The anchor θ̃ of the Bregman proximal point term: an exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart.norms import at_least_float32

Params = Any


def init_anchor(params: Params) -> Params:
    """A copy of the parameters that shares no buffer with them, so that either can be donated.

    At least float32: in bfloat16, 1 − 0.999 rounds to 0.
    """

    def copy(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        return jnp.array(x, at_least_float32(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None)

    return jax.tree.map(copy, params)


def update_anchor(anchor: Params, params: Params, decay: jax.Array | float) -> Params:
    """θ̃ ← β θ̃ + (1 − β) θ, computed so that an anchor equal to the parameters stays exactly equal.

    Call it after a step, as in the paper, or equivalently at the start of the next one, before the gradient.
    """

    def move(a: jax.Array, p: jax.Array) -> jax.Array:
        return a + (1 - jnp.asarray(decay, a.dtype)) * (jnp.asarray(p, a.dtype) - a)

    return jax.tree.map(move, anchor, params)
