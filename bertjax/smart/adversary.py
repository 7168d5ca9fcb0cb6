"""Adversaries: the small change of one example's embeddings that moves the model's output most.

Each takes ONE example; callers `jax.vmap` it over a batch. What comes back is a constant to outer gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bertjax.smart.divergences import Divergence

NORMS = ("l2", "linf")


def power_iteration(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    *,
    divergence: Divergence,
    radius: float | jax.Array,
    num_steps: int = 1,
    norm: str = "l2",
    relative: bool = True,
    mask: jax.Array | None = None,
) -> jax.Array:
    r"""Finds the worst perturbation to second order by power iteration on Jᵀ H J.

    Near δ = 0 the divergence is ½ δᵀ (Jᵀ H J) δ, with J the Jacobian of the logits in the embedding and H
    the divergence's Hessian at the clean logits. From Gaussian noise, each step takes

      d ← unit(Jᵀ H J d)  for ℓ2,   d ← sign(Jᵀ H J d)  for ℓ∞,

    by one product with the linearised forward pass and one with its transpose, so no finite difference
    enters and bfloat16 is as good as float32. Where the product vanishes the direction stays as it is.

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: PRNG key of the starting noise.
      divergence: whose growth is sought.
      radius: for `relative`, the RMS of δ (ℓ2) or its largest element (ℓ∞) as a share of the embedding's RMS
        over real tokens; else the bound on δ's norm itself.
      num_steps: power steps, at least 1; each costs about two forward passes, after one to linearise.
      norm: "l2" or "linf", over the whole example.
      relative: how `radius` is meant.
      mask: [S], bool or 0/1, true on real tokens; padding is not perturbed and counts in no norm.

    Returns:
      δ: [S, D], of the embedding's dtype promoted to at least float32, on the ball's surface. Vmap and jit:

        perturb = lambda e, m, k: power_iteration(fn(m), e, k, divergence=symmetric_kl, radius=0.02, mask=m)
        deltas = jax.jit(jax.vmap(perturb))(embeddings, masks, keys)

    Raises:
      ValueError: `num_steps` below 1, or an unknown norm.

    References:
      Miyato et al., Virtual Adversarial Training, TPAMI 2018, section 3.3, whose finite difference is here
      an exact product; Jiang et al., SMART, ACL 2020, equation 2.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, found {num_steps}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = _keep(embedding, mask)
    logits, jvp = jax.linearize(logits_fn, embedding)
    vjp = jax.linear_transpose(jvp, embedding)
    project = _unit if norm == "l2" else jnp.sign

    direction = project(keep * jax.random.normal(key, embedding.shape, keep.dtype))
    for _ in range(num_steps):
        change = divergence.hvp(logits, jvp(direction.astype(embedding.dtype)))
        (product,) = vjp(change.astype(logits.dtype))
        product = keep * product.astype(keep.dtype)
        direction = jnp.where(jnp.any(product != 0), project(product), direction)
    bound = jnp.asarray(radius, keep.dtype)
    if relative:
        square = jnp.sum(jnp.square(keep * embedding.astype(keep.dtype)))
        elements = jnp.maximum(jnp.sum(keep) * embedding.shape[-1], 1)
        bound *= jnp.sqrt(square if norm == "l2" else square / elements)
    return jax.lax.stop_gradient(bound * direction)


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
    mask: jax.Array | None = None,
) -> jax.Array:
    r"""Finds a perturbation as SMART's Algorithm 1 does, in the ℓ∞ ball.

      x̃ ← x + ν,  ν ~ N(0, σ²);   then   x̃ ← Π_{‖x̃ − x‖∞ ≤ ε}(x̃ + η g / ‖g‖∞),  g = ∇ₓ̃ l(f(x̃), f(x)).

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: PRNG key of the starting noise.
      divergence: l.
      radius: ε, in the embedding's own unit.
      step_size: η.
      noise: σ.
      num_steps: ascent steps, at least 1; each costs a forward and an input-only backward pass, after one
        clean forward.
      mask: [S], bool or 0/1, true on real tokens; padding is not perturbed and counts in no norm.

    Returns:
      δ: [S, D], of the embedding's dtype promoted to at least float32.

    Raises:
      ValueError: `num_steps` below 1.

    References:
      Jiang et al., SMART, ACL 2020, Algorithm 1. At its ε = σ = 1e-5 the divergence is next to nothing in
      float32, and the gradient is rounding in bfloat16; `power_iteration` has neither weakness.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, found {num_steps}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = _keep(embedding, mask)
    clean = logits_fn(embedding)

    def growth(delta: jax.Array) -> jax.Array:
        moved = (embedding.astype(delta.dtype) + delta).astype(embedding.dtype)
        return divergence.value(logits_fn(moved), clean)

    delta = keep * jnp.asarray(noise, keep.dtype) * jax.random.normal(key, embedding.shape, keep.dtype)
    for _ in range(num_steps):
        gradient = keep * jax.grad(growth)(delta)
        delta = delta + jnp.asarray(step_size, keep.dtype) * _over_largest(gradient)
        delta = jnp.clip(delta, -radius, radius)
    return jax.lax.stop_gradient(delta)


def _keep(embedding: jax.Array, mask: jax.Array | None) -> jax.Array:
    """[S, 1], 1 on real tokens, in the dtype in which perturbations are computed."""
    # Half precisions are widened, float64 is kept; strict promotion has no rule for the pair.
    dtype = jnp.float32 if jnp.finfo(embedding.dtype).bits < 32 else embedding.dtype
    if mask is None:
        return jnp.ones((embedding.shape[0], 1), dtype)
    return mask.astype(dtype)[:, None]


def _over_largest(x: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(x))
    return x / jnp.where(largest > 0, largest, 1)


def _unit(x: jax.Array) -> jax.Array:
    # By the largest element first: the squares of tiny gradients underflow.
    x = _over_largest(x)
    norm = jnp.sqrt(jnp.sum(jnp.square(x)))
    return x / jnp.where(norm > 0, norm, 1)
