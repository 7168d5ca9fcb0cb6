"""Divergences between two outputs of a model, with their Hessians where the outputs are equal.

Outputs must be finite: to mask a class, set its logit to a large negative number, as −inf − (−inf) is NaN.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart.norms import at_least_float32

TOP_PRODUCTS = 8


@dataclasses.dataclass(frozen=True)
class Divergence:
    """How far each example's output is from a reference: `divergence(outputs, reference)`, [B, ...] twice to [B].

    `Divergence.of` makes one from any such function.

    Attributes:
      value: (outputs [B, ...], reference [B, ...]) to [B], in the outputs' dtype but at least float32. It is 0 with
        zero gradient where the two are equal. An example's value depends on that example's outputs alone.
      hvp: (outputs [B, ...], vector [B, ...]) to [B, ...]: H times the vector, with H the Hessian of each example's
        `value(·, outputs)` at `outputs`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from bertjax import smart
      >>> print(smart.squared_error(jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])))
      [4. 0.]
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    hvp: Callable[[jax.Array, jax.Array], jax.Array]

    @staticmethod
    def of(function: Callable[[jax.Array, jax.Array], jax.Array]) -> "Divergence":
        """The divergence whose value is `function` and whose Hessian product is its automatic derivative.

        Args:
          function: (outputs [B, ...], reference [B, ...]) to [B], twice differentiable where the two are equal, and 0
            with zero gradient there. It says how to reduce the axes of one example, and each example's value depends
            on that example alone. Both arguments are what the model returns, so logits; `optax.kl_divergence`, for
            one, takes probabilities.

        Examples:
          Tokens of logits [B, S, C], averaged over the real ones:

          >>> import jax, jax.numpy as jnp
          >>> from bertjax import smart
          >>> mask = jnp.array([[1.0, 1.0, 0.0]])
          >>> def token_kl(outputs, reference):
          ...     values = jax.vmap(smart.symmetric_kl, in_axes=1, out_axes=1)(outputs, reference)  # [B, S]
          ...     return jnp.sum(mask * values, axis=1) / jnp.sum(mask, axis=1)
          >>> divergence = smart.Divergence.of(token_kl)
          >>> divergence(jnp.ones((1, 3, 2)), jnp.zeros((1, 3, 2))).shape
          (1,)
        """

        def value(outputs: jax.Array, reference: jax.Array) -> jax.Array:
            dtype = at_least_float32(outputs.dtype)
            return function(outputs.astype(dtype), reference.astype(dtype))

        def hvp(outputs: jax.Array, vector: jax.Array) -> jax.Array:
            outputs = outputs.astype(at_least_float32(outputs.dtype))
            gradient = jax.grad(lambda z: jnp.sum(function(z, outputs)))
            return jax.jvp(gradient, (outputs,), (vector.astype(outputs.dtype),))[1]

        return Divergence(value, hvp)

    def __call__(self, outputs: jax.Array, reference: jax.Array) -> jax.Array:
        """`value`, with its shapes checked: [B, ...] twice to [B].

        Raises:
          ValueError: The arguments are no float arrays, their shapes differ, there is no batch dimension, or the value
            is not of shape [B].
        """
        for array in (outputs, reference):
            if not (hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)):
                raise ValueError(
                    "a divergence compares two float arrays, found "
                    f"{array.dtype if hasattr(array, 'dtype') else type(array).__name__}"
                )
        if outputs.shape != reference.shape or not outputs.ndim:
            raise ValueError(
                "a divergence compares two outputs of equal shape [B, ...], "
                f"found {list(outputs.shape)} and {list(reference.shape)}"
            )
        value = self.value(outputs, reference)
        if value.shape != outputs.shape[:1]:
            raise ValueError(
                f"a divergence must return one number for each of {len(outputs)} examples, [{len(outputs)}], "
                f"found {list(value.shape)} for outputs {list(outputs.shape)}"
            )
        return value

    def top(self, outputs: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """The output-space vectors u for which Jᵀ u approximates the top eigenvector of each example's Jᵀ H J.

        That eigenvector is Jᵀ u, with u the top eigenvector of H J Jᵀ. J Jᵀ is approximated by Wᵀ W of the head, or by
        the identity without a kernel. A fixed number of power steps finds u; if H has rank one (two classes, or one
        score), the first is exact.

        Args:
          outputs: [B, ...], where H is computed.
          kernel: W [D, C], the kernel of a linear head that computes the last axis of the outputs.

        Returns:
          As `outputs`, with largest element 1 or −1 for each example; the sign is arbitrary.
        """
        dtype = at_least_float32(outputs.dtype)
        if outputs.ndim == 1:
            return jnp.ones(outputs.shape, dtype)
        if kernel is not None and (kernel.ndim != 2 or kernel.shape[1] != outputs.shape[-1]):
            raise ValueError(
                f"kernel must be [D, {outputs.shape[-1]}] for outputs {list(outputs.shape)}, found "
                f"{list(kernel.shape)}: Equinox and PyTorch keep its transpose"
            )
        start = jax.nn.one_hot(jnp.argmax(outputs, axis=-1), outputs.shape[-1], dtype=dtype)

        def product(_: jax.Array, u: jax.Array) -> jax.Array:
            v = u if kernel is None else (u @ kernel.T.astype(dtype)) @ kernel.astype(dtype)
            v = self.hvp(outputs, v)
            largest = jnp.max(jnp.abs(v), axis=range(1, v.ndim), keepdims=True)
            # If one class has all the probability, H is 0 and all directions are equally good.
            return jnp.where(largest > 0, v / jnp.where(largest > 0, largest, 1), u)

        return jax.lax.fori_loop(0, TOP_PRODUCTS, product, start)


def as_divergence(divergence: Any) -> Divergence:
    """A `Divergence`, also from a plain function; ValueError for anything else."""
    if isinstance(divergence, Divergence):
        return divergence
    if callable(divergence) and not isinstance(divergence, type):
        return Divergence.of(divergence)
    raise ValueError(
        "divergence must be a function of two outputs [B, ...] to [B], such as smart.symmetric_kl, "
        f"found {divergence!r}"
    )


def _of_examples(value: Callable[..., jax.Array], hvp: Callable[..., jax.Array]) -> Divergence:
    """A divergence from functions of one example's outputs."""
    return Divergence(jax.vmap(value), jax.vmap(hvp))


def _log_probabilities(logits: jax.Array) -> jax.Array:
    """Log-softmax of one example's logits [C]."""
    if logits.ndim != 1:
        has = "no axis of classes" if logits.ndim == 0 else "axes before the classes"
        advice = (
            "use smart.symmetric_bernoulli_kl for a sigmoid logit, smart.squared_error for a score"
            if logits.ndim == 0
            else "say how to reduce them with smart.Divergence.of"
        )
        raise ValueError(f"a divergence of softmax probabilities needs logits [B, C], found {has}: {advice}")
    if logits.shape[-1] == 1:
        raise ValueError(
            "a divergence of softmax probabilities needs at least two logits, found one, whose softmax is always 1: "
            "use smart.symmetric_bernoulli_kl for a sigmoid logit, smart.squared_error for a score"
        )
    return jax.nn.log_softmax(logits.astype(at_least_float32(logits.dtype)))


def _fisher_product(scale: float, logits: jax.Array, vector: jax.Array) -> jax.Array:
    """The vector [C] times scale (diag p − p pᵀ)."""
    p = jnp.exp(_log_probabilities(logits))
    vector = vector.astype(p.dtype)
    return scale * p * (vector - jnp.sum(p * vector, axis=-1, keepdims=True))


def _symmetric_kl_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    log_p, log_q = _log_probabilities(logits), _log_probabilities(reference)
    # Both factors have the same sign, so no term can round below zero.
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


symmetric_kl = _of_examples(_symmetric_kl_value, partial(_fisher_product, 2.0))
r"""KL(p‖q) + KL(q‖p) = Σ (p − q)(log p − log q) of the softmax of two logit vectors [B, C], in nats, as in SMART.

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


kl = _of_examples(_kl_value, partial(_fisher_product, 1.0))
r"""KL(q‖p) = Σ q (log q − log p) of logits [B, C], with q from the reference (the clean pass), in nats, as in VAT
(Miyato et al., 2018).

Its Hessian in the logits is the Fisher information. Raises ValueError for a single logit.
"""


def _jensen_shannon_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    log_p, log_q = _log_probabilities(logits), _log_probabilities(reference)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(jnp.asarray(2, log_p.dtype))
    return 0.5 * (_relative_entropy(log_p, log_m) + _relative_entropy(log_q, log_m))


jensen_shannon = _of_examples(_jensen_shannon_value, partial(_fisher_product, 0.25))
r"""½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2, of logits [B, C], in nats; symmetric, and at most log 2.

Its Hessian in the logits is a quarter of the Fisher information. Raises ValueError for a single logit.
"""


def _wide(name: str, outputs: jax.Array) -> jax.Array:
    """One example's outputs [] or [C], at least float32."""
    if outputs.ndim > 1:
        raise ValueError(
            f"{name} needs outputs [B] or [B, C], found {outputs.ndim} axes for each example: say how to reduce them "
            "with smart.Divergence.of"
        )
    return outputs.astype(at_least_float32(outputs.dtype))


def _bernoulli_value(logits: jax.Array, reference: jax.Array) -> jax.Array:
    z, w = _wide("symmetric_bernoulli_kl", logits), _wide("symmetric_bernoulli_kl", reference)
    return jnp.sum((jax.nn.sigmoid(z) - jax.nn.sigmoid(w)) * (z - w))


def _bernoulli_hvp(logits: jax.Array, vector: jax.Array) -> jax.Array:
    z = _wide("symmetric_bernoulli_kl", logits)
    return 2 * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * vector.astype(z.dtype)


symmetric_bernoulli_kl = _of_examples(_bernoulli_value, _bernoulli_hvp)
r"""KL(p‖q) + KL(q‖p) = (p − q)(logit p − logit q) of sigmoid logits [B], in nats; of several, [B, C], the sum.

Its Hessian in a logit is 2 p (1 − p). For binary classification with one logit, and for multi-label classification.
"""


def _squared_error_value(scores: jax.Array, reference: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(_wide("squared_error", scores) - _wide("squared_error", reference)))


def _squared_error_hvp(scores: jax.Array, vector: jax.Array) -> jax.Array:
    return 2 * vector.astype(_wide("squared_error", scores).dtype)


squared_error = _of_examples(_squared_error_value, _squared_error_hvp)
"""Σ (p − q)² of scores [B] or [B, C], as SMART uses for regression; its Hessian is 2 I."""
