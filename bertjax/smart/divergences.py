"""Divergences between two outputs of a model, each with its second derivative where the two agree."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Divergence(NamedTuple):
    """How far one output of a model is from another.

    Attributes:
      value: (outputs [..., C], reference outputs [..., C]) to float32 [...]; zero, with zero gradient, where
        they agree.
      hvp: (outputs [..., C], vector [..., C]) to float32 [..., C]: the vector times the Hessian of
        `value(·, outputs)` at `outputs`.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    hvp: Callable[[jax.Array, jax.Array], jax.Array]


def _log_probabilities(logits: jax.Array) -> jax.Array:
    if logits.shape[-1] == 1:
        raise ValueError(
            "symmetric_kl needs at least two logits, found one, whose softmax is always 1; "
            "use squared_error for a score"
        )
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def _symmetric_kl_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    log_p, log_q = _log_probabilities(logits), _log_probabilities(reference)
    # Both factors have the same sign, so no term can round below zero.
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


def _symmetric_kl_hvp(logits: jax.Array, vector: jax.Array) -> jax.Array:
    p, vector = jnp.exp(_log_probabilities(logits)), vector.astype(jnp.float32)
    return 2 * p * (vector - jnp.sum(p * vector, axis=-1, keepdims=True))


symmetric_kl = Divergence(_symmetric_kl_value, _symmetric_kl_hvp)
r"""KL(p‖q) + KL(q‖p) = Σ (p − q)(log p − log q) of the softmax of two logit vectors, in nats.

Its Hessian in the logits is twice the Fisher information, 2 (diag p − p pᵀ). ValueError for a single logit.
"""


def _squared_error_value(scores: jax.Array, reference: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(scores.astype(jnp.float32) - reference.astype(jnp.float32)), axis=-1)


def _squared_error_hvp(scores: jax.Array, vector: jax.Array) -> jax.Array:
    del scores  # the Hessian is 2 everywhere
    return 2 * vector.astype(jnp.float32)


squared_error = Divergence(_squared_error_value, _squared_error_hvp)
"""Σ (p − q)² of two score vectors; its Hessian is 2."""
