"""Adversaries: perturbations of a batch's embeddings that change the model's output most.

Each linearises or differentiates the model once for the whole batch, so models of any kind and shape work. What is of
one example (norm, projection, sign, noise) is a function of one example under `jax.vmap`. The perturbation is a
constant to outer gradients. `one_example` has the same functions for one example, and documents their arguments.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp

from bertjax.smart import norms
from bertjax.smart.arguments import checked, kept
from bertjax.smart.divergences import Divergence, as_divergence

STARTS = ("noise", "output")
PROJECTIONS = ("ball", "sphere", "none")
BatchFunction = Callable[[jax.Array], jax.Array]
AnyDivergence = Divergence | Callable[[jax.Array, jax.Array], jax.Array]


@contextmanager
def _forward_derivatives() -> Iterator[None]:
    """Explains JAX's error for a model that has backward derivatives alone."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ValueError(
            "a power step or the start 'output' needs forward derivatives, which a jax.custom_vjp in the model lacks: "
            "use the preset 'bertjax' or 'paper'"
        ) from error


@_forward_derivatives()
def power_iteration(
    logits_fn: BatchFunction,
    embeddings: jax.Array,
    keys: jax.Array,
    *,
    divergence: AnyDivergence,
    radius: float | jax.Array,
    num_steps: int = 1,
    norm: str = "l2",
    start: str | jax.Array = "noise",
    kernel: jax.Array | None = None,
    relative: bool = True,
    mask: jax.Array | None = None,
) -> jax.Array:
    """δ [B, ...] by power iteration on each example's Jᵀ H J.

    Args:
      logits_fn: [B, ...] to [B, C].
      embeddings: [B, ...].
      keys: Keys [B].
      divergence: See `one_example.power_iteration`, also for what follows.
      radius: The same for all examples.
      num_steps: Power steps.
      norm: Over each whole example.
      start: "noise", "output", or an array [B, ...].
      kernel: [D, C].
      relative: Whether `radius` is relative to each example's embeddings.
      mask: [B, S], or another leading part of the embeddings' shape.

    Raises:
      ValueError: See `one_example.power_iteration`.
    """
    norms.check_norm(norm)
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, found {num_steps}")
    if isinstance(start, str) and start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)} or an array, found {start!r}")
    divergence = as_divergence(divergence)
    embeddings = jax.lax.stop_gradient(embeddings)
    keep = kept(embeddings, mask)

    if num_steps or (isinstance(start, str) and start == "output"):
        logits, jvp = jax.linearize(checked(logits_fn), embeddings)
        transpose = jax.linear_transpose(jvp, embeddings)

    def vjp(u: jax.Array) -> jax.Array:
        (product,) = transpose(as_cotangent(u, logits.dtype))
        return keep * product.astype(keep.dtype)

    if not isinstance(start, str):
        if start.shape != embeddings.shape:
            raise ValueError(
                f"start must have the embeddings' shape {list(embeddings.shape)}, found {list(start.shape)}"
            )
        first = keep * jax.lax.stop_gradient(start).astype(keep.dtype)
    elif start == "noise":
        first = keep * _normal(keys, embeddings, keep.dtype)
    else:
        first = vjp(with_random_sign(keys, divergence.top(logits, kernel)))

    to_direction = partial(norms.unit, norm="l2") if norm == "l2" else jnp.sign
    direction = jax.vmap(to_direction)(first)
    for _ in range(num_steps):
        product = vjp(divergence.hvp(logits, jvp(direction.astype(embeddings.dtype))))
        direction = jax.vmap(lambda p, d: jnp.where(jnp.any(p != 0), to_direction(p), d))(product, direction)
    bound = jax.vmap(partial(_bound, radius, norm, relative))(embeddings, keep)
    return jax.lax.stop_gradient(jax.vmap(jnp.multiply)(bound, direction))


def projected_gradient_ascent(
    logits_fn: BatchFunction,
    embeddings: jax.Array,
    keys: jax.Array,
    *,
    divergence: AnyDivergence,
    radius: float | jax.Array,
    step_size: float | jax.Array,
    noise: float | jax.Array,
    num_steps: int = 1,
    norm: str = "linf",
    per: str = "example",
    projection: str = "ball",
    normalize_gradient: bool = True,
    reference: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """δ [B, ...] by SMART's Algorithm 1.

    Args:
      logits_fn: [B, ...] to [B, C].
      embeddings: [B, ...].
      keys: Keys [B].
      divergence: See `one_example.projected_gradient_ascent`, also for what follows.
      radius: ε.
      step_size: η.
      noise: σ.
      num_steps: Ascent steps.
      norm: "linf" or "l2".
      per: "example" or "token".
      projection: "ball", "sphere" or "none".
      normalize_gradient: Whether g is divided by its norm.
      reference: f(x), [B, C].
      mask: [B, S], or another leading part of the embeddings' shape.

    Raises:
      ValueError: See `one_example.projected_gradient_ascent`.
    """
    norms.check_norm(norm, per)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, found {num_steps}")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, found {projection!r}")
    divergence, logits_fn = as_divergence(divergence), checked(logits_fn)
    embeddings = jax.lax.stop_gradient(embeddings)
    keep = kept(embeddings, mask)
    clean_logits = logits_fn(embeddings) if reference is None else jax.lax.stop_gradient(reference)
    radius, step_size = jnp.asarray(radius, keep.dtype), jnp.asarray(step_size, keep.dtype)

    def objective(delta: jax.Array) -> jax.Array:
        return jnp.sum(divergence(logits_fn(add(embeddings, delta)), clean_logits))

    def ascend(delta: jax.Array, gradient: jax.Array) -> jax.Array:
        if normalize_gradient:
            gradient = norms.unit(gradient, norm, per)
        delta = delta + step_size * gradient
        if projection == "ball":
            return norms.project(delta, radius, norm, per)
        return radius * norms.unit(delta, norm, per) if projection == "sphere" else delta

    delta = keep * jnp.asarray(noise, keep.dtype) * _normal(keys, embeddings, keep.dtype)
    for _ in range(num_steps):
        # An example's divergence depends on that example alone: the gradient of their sum is each one's.
        delta = jax.vmap(ascend)(delta, keep * jax.grad(objective)(delta))
    return jax.lax.stop_gradient(delta)


def random_perturbation(
    embeddings: jax.Array,
    keys: jax.Array,
    *,
    radius: float | jax.Array,
    distribution: str = "normal",
    mask: jax.Array | None = None,
) -> jax.Array:
    """δ [B, ...], drawn as R3F does.

    Args:
      embeddings: [B, ...].
      keys: Keys [B].
      radius: See `one_example.random_perturbation`, also for what follows.
      distribution: "normal" or "uniform".
      mask: [B, S], or another leading part of the embeddings' shape.

    Raises:
      ValueError: The distribution is unknown, or a shape does not fit.
    """
    keep = kept(embeddings, mask)
    if distribution == "normal":
        z = _normal(keys, embeddings, keep.dtype)
    elif distribution == "uniform":
        shape = embeddings.shape[1:]
        z = jax.vmap(lambda key: jax.random.uniform(key, shape, keep.dtype, minval=-1, maxval=1))(keys)
    else:
        raise ValueError(f"distribution must be normal or uniform, found {distribution!r}")
    return keep * jax.lax.stop_gradient(jnp.asarray(radius, keep.dtype)) * z


def add(embeddings: jax.Array, delta: jax.Array) -> jax.Array:
    """x + δ, in the embeddings' dtype."""
    return (embeddings.astype(delta.dtype) + delta).astype(embeddings.dtype)


def as_cotangent(u: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Output-space vectors [B, ...] for a backward pass of which only each example's direction counts.

    In float16 small ones would underflow there, so they are scaled.
    """
    return (jax.vmap(partial(norms.unit, norm="linf"))(u) if dtype == jnp.float16 else u).astype(dtype)


def with_random_sign(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Each example's [...] times 1 or −1, drawn by its key."""
    signs = jax.vmap(lambda key: jax.random.rademacher(key, (), x.dtype))(keys)
    return x * signs.reshape(signs.shape + (1,) * (x.ndim - 1))


def _normal(keys: jax.Array, embeddings: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Each example's standard normal noise [B, ...], from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, embeddings.shape[1:], dtype))(keys)


def _bound(radius: float | jax.Array, norm: str, relative: bool, embedding: jax.Array, keep: jax.Array) -> jax.Array:
    """The bound on the norm of one example's δ."""
    bound = jnp.asarray(radius, keep.dtype)
    if not relative:
        return bound
    square = jnp.sum(jnp.square(keep * embedding.astype(keep.dtype)))
    elements = jnp.maximum(jnp.sum(keep) * (embedding.size // keep.size), 1)
    return bound * jnp.sqrt(square if norm == "l2" else square / elements)
