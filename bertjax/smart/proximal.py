"""The anchor θ̃ of the Bregman proximal point term: a moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

Params = Any


def init_anchor(params: Params) -> Params:
    """A copy of the parameters, of which no buffer is shared: donating one leaves the other whole."""
    return jax.tree.map(jnp.copy, params)


def update_anchor(anchor: Params, params: Params, decay: jax.Array | float) -> Params:
    """θ̃ ← β θ̃ + (1 − β) θ, in a form that leaves an anchor equal to the parameters exactly as it is.

    To be called after a step, as the paper has it, or on entering the next, before the gradient, which is the same.
    """

    def move(a: jax.Array, p: jax.Array) -> jax.Array:
        return a + (1 - jnp.asarray(decay, a.dtype)) * (p - a)

    return jax.tree.map(move, anchor, params)
