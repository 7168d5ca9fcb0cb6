"""Divergences between two outputs of a model, with their Hessians where the outputs are equal."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bertjax.smart.norms import at_least_float32

TOP_PRODUCTS = 8


class Divergence(NamedTuple):
    """How far one output of a model is from another.

    Attributes:
      value: (outputs [..., C], reference outputs [..., C]) to [...], in the outputs' dtype but at least float32. It
        is 0 with zero gradient where the two are equal.
      hvp: (outputs [..., C], vector [..., C]) to [..., C]: H times the vector, with H the Hessian of
        `value(·, outputs)` at `outputs`.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    hvp: Callable[[jax.Array, jax.Array], jax.Array]

    def top(self, outputs: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """The output-space vector u for which Jᵀ u approximates the top eigenvector of Jᵀ H J.

        That eigenvector is Jᵀ u, with u the top eigenvector of H J Jᵀ. J Jᵀ is approximated by Wᵀ W of the head, or by
        the identity without a kernel. A fixed number of power steps finds u; if H has rank one (two classes, or one
        score), the first is exact.

        Args:
          outputs: [C], where H is computed.
          kernel: W [D, C], the linear head's kernel.

        Returns:
          [C], with largest element 1 or −1; the sign is arbitrary.
        """
        dtype = at_least_float32(outputs.dtype)
        start = jax.nn.one_hot(jnp.argmax(outputs), outputs.shape[-1], dtype=dtype)

        def product(_: jax.Array, u: jax.Array) -> jax.Array:
            v = u if kernel is None else (u @ kernel.T.astype(dtype)) @ kernel.astype(dtype)
            v = self.hvp(outputs, v)
            largest = jnp.max(jnp.abs(v))
            # If one class has all the probability, H is 0 and all directions are equally good.
            return jnp.where(largest > 0, v / jnp.where(largest > 0, largest, 1), u)

        return jax.lax.fori_loop(0, TOP_PRODUCTS, product, start)


def _log_probabilities(logits: jax.Array) -> jax.Array:
    if logits.shape[-1] == 1:
        raise ValueError(
            "a divergence of probabilities needs at least two logits, found one, whose softmax is always 1; "
            "use squared_error for a score"
        )
    return jax.nn.log_softmax(logits.astype(at_least_float32(logits.dtype)))


def _fisher_product(scale: float, logits: jax.Array, vector: jax.Array) -> jax.Array:
    """The vector times scale (diag p − p pᵀ)."""
    p = jnp.exp(_log_probabilities(logits))
    vector = vector.astype(p.dtype)
    return scale * p * (vector - jnp.sum(p * vector, axis=-1, keepdims=True))


def _symmetric_kl_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    log_p, log_q = _log_probabilities(logits), _log_probabilities(reference)
    # Both factors have the same sign, so no term can round below zero.
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


symmetric_kl = Divergence(_symmetric_kl_value, partial(_fisher_product, 2.0))
r"""KL(p‖q) + KL(q‖p) = Σ (p − q)(log p − log q) of the softmax of two logit vectors, in nats, as in SMART.

Its Hessian in the logits is twice the Fisher information, 2 (diag p − p pᵀ). Raises ValueError for a single logit.
"""


def _relative_entropy(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """Σ q (log q − log p) as Σ q (e^d − 1 − d), d = log p − log q: no term rounds below zero."""
    q, d = jnp.exp(log_q), log_p - log_q
    is_small = jnp.abs(d) < 0.02
    t = jnp.where(is_small, d, 0)
    series = t * t * (1 / 2 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t * (1 / 720 + t / 5040)))))
    return jnp.sum(jnp.where(is_small, q * series, jnp.exp(log_p) - q - q * d), axis=-1)


def _kl_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    return _relative_entropy(_log_probabilities(reference), _log_probabilities(logits))


kl = Divergence(_kl_value, partial(_fisher_product, 1.0))
r"""KL(q‖p) = Σ q (log q − log p), with q from the reference (the clean pass), in nats, as in VAT (Miyato et al., 2018).

Its Hessian in the logits is the Fisher information. Raises ValueError for a single logit.
"""


def _jensen_shannon_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    log_p, log_q = _log_probabilities(logits), _log_probabilities(reference)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(jnp.asarray(2, log_p.dtype))
    return 0.5 * (_relative_entropy(log_p, log_m) + _relative_entropy(log_q, log_m))


jensen_shannon = Divergence(_jensen_shannon_value, partial(_fisher_product, 0.25))
r"""½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2, in nats; symmetric, and at most log 2.

Its Hessian in the logits is a quarter of the Fisher information. Raises ValueError for a single logit.
"""


def _squared_error_value(scores: jax.Array, reference: jax.Array) -> jax.Array:
    dtype = at_least_float32(scores.dtype)
    return jnp.sum(jnp.square(scores.astype(dtype) - reference.astype(dtype)), axis=-1)


def _squared_error_hvp(scores: jax.Array, vector: jax.Array) -> jax.Array:
    return 2 * vector.astype(at_least_float32(scores.dtype))


squared_error = Divergence(_squared_error_value, _squared_error_hvp)
"""Σ (p − q)² of two score vectors, as SMART uses for regression; its Hessian is 2."""
