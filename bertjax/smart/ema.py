"""The anchor θ̃ of the Bregman proximal point term: a moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart.norms import at_least_float32

Params = Any


def init_anchor(params: Params) -> Params:
    """A copy of the parameters, of which no buffer is shared: donating one leaves the other whole.

    In float32 at least: at bfloat16's eight bits, 1 − 0.999 is 0, and a step of a hundredth is lost.
    """

    def copied(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        return jnp.array(x, at_least_float32(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None)

    return jax.tree.map(copied, params)


def like_params(anchor: Params, params: Params) -> Params:
    """The anchor in the parameters' dtypes, to be run as they are."""
    return jax.tree.map(lambda a, p: a.astype(jnp.asarray(p).dtype), anchor, params)


def update_anchor(anchor: Params, params: Params, decay: jax.Array | float) -> Params:
    """θ̃ ← β θ̃ + (1 − β) θ, in a form that leaves an anchor equal to the parameters exactly as it is.

    To be called after a step, as the paper has it, or on entering the next, before the gradient, which is the same.
    """

    def move(a: jax.Array, p: jax.Array) -> jax.Array:
        return a + (1 - jnp.asarray(decay, a.dtype)) * (jnp.asarray(p, a.dtype) - a)

    return jax.tree.map(move, anchor, params)
