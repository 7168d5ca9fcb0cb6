"""Norms of one example's perturbation, over the whole example or per token, whatever its shape."""

import jax
import jax.numpy as jnp

NORMS = ("l2", "linf")
SCOPES = ("example", "token")
"""A norm covers all axes of one example, or its last axis."""


def check_norm(norm: str, per: str = "example") -> None:
    """Raises ValueError for an unknown norm or scope."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
    if per not in SCOPES:
        raise ValueError(f"per must be one of {', '.join(SCOPES)}, found {per!r}")


def at_least_float32(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """float32 for half precisions, else the dtype itself; strict promotion has no such rule."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def unit(x: jax.Array, norm: str, per: str = "example") -> jax.Array:
    """One example's [...] divided by its norm; zeros stay zeros."""
    # Divide by the largest element first, even for l2: squares of tiny gradients underflow.
    x = _divide(x, jnp.max(jnp.abs(x), axis=_axes(per), keepdims=True))
    return x if norm == "linf" else _divide(x, _l2(x, per))


def project(x: jax.Array, radius: jax.Array, norm: str, per: str = "example") -> jax.Array:
    """The point of the ball that is nearest to x, one example's [...]."""
    if norm == "linf":
        return jnp.clip(x, -radius, radius)
    size = _l2(x, per)
    return jnp.where(size > radius, radius * _divide(x, size), x)


def _axes(per: str) -> int | None:
    return None if per == "example" else -1


def _l2(x: jax.Array, per: str) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=_axes(per), keepdims=True))


def _divide(x: jax.Array, size: jax.Array) -> jax.Array:
    return x / jnp.where(size > 0, size, 1)
