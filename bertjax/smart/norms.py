"""Norms of one example's perturbation [S, D], over the whole example or per token."""

import jax
import jax.numpy as jnp

NORMS = ("l2", "linf")
SCOPES = {"example": (-2, -1), "token": (-1,)}
"""Axes of [S, D] that a norm covers."""


def check_norm(norm: str, per: str = "example") -> None:
    """Raises ValueError for an unknown norm or scope."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
    if per not in SCOPES:
        raise ValueError(f"per must be one of {', '.join(SCOPES)}, found {per!r}")


def real_tokens(embedding: jax.Array, mask: jax.Array | None) -> jax.Array:
    """[S, 1], 1 on real tokens and 0 on padding, in the embedding's dtype but at least float32."""
    dtype = at_least_float32(embedding.dtype)
    if mask is None:
        return jnp.ones((embedding.shape[0], 1), dtype)
    return mask.astype(dtype)[:, None]


def at_least_float32(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """float32 for half precisions, else the dtype itself; strict promotion has no such rule."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def unit(x: jax.Array, norm: str, per: str = "example") -> jax.Array:
    """[S, D] divided by its norm; zeros stay zeros."""
    # Divide by the largest element first, even for l2: squares of tiny gradients underflow.
    x = _divide(x, jnp.max(jnp.abs(x), axis=SCOPES[per], keepdims=True))
    return x if norm == "linf" else _divide(x, _l2(x, per))


def project(x: jax.Array, radius: jax.Array, norm: str, per: str = "example") -> jax.Array:
    """The point of the ball that is nearest to x, [S, D]."""
    if norm == "linf":
        return jnp.clip(x, -radius, radius)
    size = _l2(x, per)
    return jnp.where(size > radius, radius * _divide(x, size), x)


def _l2(x: jax.Array, per: str) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=SCOPES[per], keepdims=True))


def _divide(x: jax.Array, size: jax.Array) -> jax.Array:
    return x / jnp.where(size > 0, size, 1)
