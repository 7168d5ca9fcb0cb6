"""The anchor θ̃ of the Bregman proximal point term: an exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.smart.arguments import is_typed_key
from bertjax.smart.norms import at_least_float32

Params = Any


def init_anchor(params: Params) -> Params:
    """A copy of the parameters that shares no buffer with them, so that either can be donated.

    At least float32: in bfloat16, 1 − 0.999 rounds to 0. To compute D of half-precision parameters with it in a loss of
    your own, cast it: `optax.tree.cast_like(anchor, params)`.

    Raises:
      ValueError: A leaf is no array or number.
    """

    def copy(x: Any) -> jax.Array:
        if not isinstance(x, jax.Array | np.ndarray | np.generic | float | int):
            raise ValueError(
                f"params must be arrays, found a {type(x).__name__}: of an Equinox module, pass "
                "eqx.filter(model, eqx.is_inexact_array)"
            )
        if is_typed_key(x):
            return jax.random.clone(x)
        x = jnp.asarray(x)
        return jnp.array(x, at_least_float32(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None)

    return jax.tree.map(copy, params)


def update_anchor(anchor: Params, params: Params, decay: jax.Array | float) -> Params:
    """θ̃ ← β θ̃ + (1 − β) θ, computed so that an anchor equal to the parameters stays exactly equal.

    Leaves that are no floats, such as counts, are the parameters'.

    Raises:
      ValueError: The decay is a number outside [0, 1], or a schedule: evaluate it with `value_at`.

    Call it after a step, as in the paper, or equivalently at the start of the next one, before the gradient.
    """

    if callable(decay) or (isinstance(decay, int | float) and not 0 <= decay <= 1):
        raise ValueError(f"decay must be a number in [0, 1], found {decay!r}")

    def move(a: jax.Array, p: jax.Array) -> jax.Array:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(p)  # a count, a flag or a key
        return a + (1 - jnp.asarray(decay, a.dtype)) * (jnp.asarray(p, a.dtype) - a)

    return jax.tree.map(move, anchor, params)
