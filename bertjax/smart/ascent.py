"""Gradient ascent and plain noise: what the SMART paper's Algorithm 1 and its relatives perturb with.

Each takes ONE example; callers `jax.vmap` it over a batch. What comes back is a constant to outer gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bertjax.smart import norms
from bertjax.smart.divergences import Divergence

PROJECTIONS = ("ball", "sphere", "none")


def projected_gradient_ascent(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    *,
    divergence: Divergence,
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
    r"""Finds a perturbation as SMART's Algorithm 1 does.

      x̃ ← x + ν,  ν ~ N(0, σ²);   then   x̃ ← Π_{‖x̃ − x‖ ≤ ε}(x̃ + η g / ‖g‖),  g = ∇ₓ̃ l(f(x̃), f(x)).

    The defaults are the paper's. The other values of `per`, `projection` and `normalize_gradient` are what
    public code does instead; the presets name them.

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: PRNG key of the starting noise.
      divergence: l.
      radius: ε, in the embedding's own unit; unused where `projection` is "none".
      step_size: η, in the embedding's own unit where gradients are normalised.
      noise: σ, in the embedding's own unit.
      num_steps: ascent steps, at least 1; each costs a forward and an input-only backward pass.
      norm: "linf" (the paper's) or "l2".
      per: what a norm covers, "example" or "token".
      projection: "ball", "sphere" (always to norm ε, whatever the length) or "none".
      normalize_gradient: whether g is divided by its norm.
      reference: f(x), [C]; computed where None, at the price of one forward pass.
      mask: [S], bool or 0/1, true on real tokens; padding is not perturbed and counts in no norm.

    Returns:
      δ: [S, D], of the embedding's dtype promoted to at least float32.

    Raises:
      ValueError: `num_steps` below 1, or an unknown norm, scope or projection.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from bertjax import smart
      >>> logits_fn = lambda e: jnp.sum(e, axis=0)
      >>> delta = smart.projected_gradient_ascent(
      ...     logits_fn, jnp.ones((3, 2)), jax.random.key(0),
      ...     divergence=smart.symmetric_kl, radius=0.1, step_size=1.0, noise=0.01,
      ... )
      >>> print(jnp.abs(delta).round(3))
      [[0.1 0.1]
       [0.1 0.1]
       [0.1 0.1]]

    References:
      Jiang et al., SMART, ACL 2020, Algorithm 1. At its ε = σ = 1e-5 the divergence is next to nothing in float32,
      and in bfloat16 rounding decides the gradient's sign and much of its direction; `power_iteration` has neither
      weakness.
    """
    norms.check(norm, per)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, found {num_steps}")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, found {projection!r}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = norms.real_tokens(embedding, mask)
    clean = logits_fn(embedding) if reference is None else jax.lax.stop_gradient(reference)
    radius, step_size = jnp.asarray(radius, keep.dtype), jnp.asarray(step_size, keep.dtype)

    def growth(delta: jax.Array) -> jax.Array:
        moved = (embedding.astype(delta.dtype) + delta).astype(embedding.dtype)
        return divergence.value(logits_fn(moved), clean)

    delta = keep * jnp.asarray(noise, keep.dtype) * jax.random.normal(key, embedding.shape, keep.dtype)
    for _ in range(num_steps):
        gradient = keep * jax.grad(growth)(delta)
        if normalize_gradient:
            gradient = norms.unit(gradient, norm, per)
        delta = delta + step_size * gradient
        if projection == "ball":
            delta = norms.project(delta, radius, norm, per)
        elif projection == "sphere":
            delta = radius * norms.unit(delta, norm, per)
    return jax.lax.stop_gradient(delta)


def random_perturbation(
    embedding: jax.Array,
    key: jax.Array,
    *,
    radius: float | jax.Array,
    distribution: str = "normal",
    mask: jax.Array | None = None,
) -> jax.Array:
    r"""Draws noise and seeks nothing, as R3F does: z ~ N(0, ε²) or z ~ U(−ε, ε), at no pass through the model.

    Args:
      embedding: [S, D].
      key: PRNG key.
      radius: ε, in the embedding's own unit: a standard deviation, or a bound on each element.
      distribution: "normal" or "uniform".
      mask: [S], bool or 0/1, true on real tokens; padding is not perturbed.

    Returns:
      δ: [S, D], of the embedding's dtype promoted to at least float32.

    Raises:
      ValueError: an unknown distribution.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from bertjax import smart
      >>> delta = smart.random_perturbation(jnp.ones((3, 2)), jax.random.key(0), radius=0.1, distribution="uniform")
      >>> bool((jnp.abs(delta) <= 0.1).all())
      True

    References:
      Aghajanyan et al., Better Fine-Tuning by Reducing Representational Collapse, ICLR 2021, equation 4.
    """
    keep = norms.real_tokens(embedding, mask)
    if distribution == "normal":
        z = jax.random.normal(key, embedding.shape, keep.dtype)
    elif distribution == "uniform":
        z = jax.random.uniform(key, embedding.shape, keep.dtype, minval=-1, maxval=1)
    else:
        raise ValueError(f"distribution must be normal or uniform, found {distribution!r}")
    return keep * jax.lax.stop_gradient(jnp.asarray(radius, keep.dtype)) * z
