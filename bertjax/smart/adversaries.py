"""Adversaries: perturbations of one example's embeddings that change the model's output most.

Each takes one example; callers `jax.vmap` it over a batch. The perturbation is a constant to outer gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bertjax.smart import norms
from bertjax.smart.divergences import Divergence

STARTS = ("noise", "output")


def power_iteration(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    *,
    divergence: Divergence,
    radius: float | jax.Array,
    num_steps: int = 1,
    norm: str = "l2",
    start: str | jax.Array = "noise",
    kernel: jax.Array | None = None,
    relative: bool = True,
    mask: jax.Array | None = None,
) -> jax.Array:
    r"""Finds the worst perturbation to second order, by power iteration on Jᵀ H J.

    Near δ = 0 the divergence is ½ δᵀ (Jᵀ H J) δ, with J the Jacobian of the logits in the embedding and H
    the divergence's Hessian at the clean logits. Each step takes

      d ← unit(Jᵀ H J d)  for ℓ2,   d ← sign(Jᵀ H J d)  for ℓ∞,

    by one product with the linearised forward pass and one with its transpose, so no finite difference
    enters and bfloat16 is as good as float32. δᵀ (Jᵀ H J) δ never falls from step to step, in either norm.
    Where the product vanishes the direction stays as it is.

    Jᵀ H J has rank C − 1 at most (1 for a score), and its eigenvectors are Jᵀ u with u in output space. So a start
    in output space costs one backward pass and no step after it has to: for two classes, or one score, it is exact.

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: PRNG key of the starting noise, or of the sign where the start is "output".
      divergence: whose growth is sought.
      radius: for `relative`, the RMS of δ (ℓ2) or its largest element (ℓ∞) as a share of the embedding's RMS
        over real tokens; else the bound on δ's norm itself.
      num_steps: power steps; each costs about two forward passes, after one to linearise. With 0 the start
        itself is scaled to the ball's surface, its sign taken for ℓ∞.
      norm: "l2" or "linf", over the whole example.
      start: "noise"; "output", Jᵀ u with u from `divergence.top`; or an array [S, D], as the gradient of the
        task's loss, which lies in Jᵀ's range too.
      kernel: [D, C] of the linear head, if there is one: it makes the start "output" better.
      relative: how `radius` is meant.
      mask: [S], bool or 0/1, true on real tokens; padding is not perturbed and counts in no norm.

    Returns:
      δ: [S, D], of the embedding's dtype promoted to at least float32, on the ball's surface; 0 where the start is 0,
      as "output" is of a constant model.

    Raises:
      ValueError: `num_steps` below 0, an unknown norm or start, or a start of another shape.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from bertjax import smart
      >>> w = jnp.array([[1.0, -1.0], [0.0, 0.0]])
      >>> embeddings, masks = jnp.ones((4, 3, 2)), jnp.ones((4, 3), bool)
      >>> def perturb(embedding, mask, key):  # one example
      ...     logits_fn = lambda e: jnp.sum(e, axis=0) @ w
      ...     return smart.power_iteration(
      ...         logits_fn, embedding, key, divergence=smart.symmetric_kl, radius=0.5, mask=mask
      ...     )
      >>> keys = jax.random.split(jax.random.key(0), 4)
      >>> deltas = jax.jit(jax.vmap(perturb))(embeddings, masks, keys)
      >>> deltas.shape
      (4, 3, 2)
      >>> print(jnp.abs(deltas[0]).round(3))  # RMS 0.5, all of it where w tells the classes apart
      [[0.707 0.   ]
       [0.707 0.   ]
       [0.707 0.   ]]

    References:
      Miyato et al., Virtual Adversarial Training, TPAMI 2018, section 3.3, whose finite difference is here
      an exact product; Jiang et al., SMART, ACL 2020, equation 2.
    """
    norms.check_norm(norm)
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, found {num_steps}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = norms.real_tokens(embedding, mask)

    def direct(x: jax.Array) -> jax.Array:
        return norms.unit(x, "l2") if norm == "l2" else jnp.sign(x)

    if num_steps or (isinstance(start, str) and start == "output"):
        logits, jvp = jax.linearize(logits_fn, embedding)
        transpose = jax.linear_transpose(jvp, embedding)

    def vjp(u: jax.Array) -> jax.Array:
        (product,) = transpose(u.astype(logits.dtype))
        return keep * product.astype(keep.dtype)

    if not isinstance(start, str):
        if start.shape != embedding.shape:
            raise ValueError(f"start must have the embedding's shape {embedding.shape}, found {start.shape}")
        first = keep * jax.lax.stop_gradient(start).astype(keep.dtype)
    elif start == "noise":
        first = keep * jax.random.normal(key, embedding.shape, keep.dtype)
    elif start == "output":
        u = divergence.top(logits, kernel)
        first = vjp(u * jax.random.rademacher(key, (), u.dtype))
    else:
        raise ValueError(f"start must be one of {', '.join(STARTS)} or an array, found {start!r}")

    direction = direct(first)
    for _ in range(num_steps):
        product = vjp(divergence.hvp(logits, jvp(direction.astype(embedding.dtype))))
        direction = jnp.where(jnp.any(product != 0), direct(product), direction)
    return jax.lax.stop_gradient(_bound(radius, norm, relative, embedding, keep) * direction)


def _bound(radius: float | jax.Array, norm: str, relative: bool, embedding: jax.Array, keep: jax.Array) -> jax.Array:
    """The bound on the norm that `radius` stands for."""
    bound = jnp.asarray(radius, keep.dtype)
    if not relative:
        return bound
    square = jnp.sum(jnp.square(keep * embedding.astype(keep.dtype)))
    elements = jnp.maximum(jnp.sum(keep) * embedding.shape[-1], 1)
    return bound * jnp.sqrt(square if norm == "l2" else square / elements)


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
    norms.check_norm(norm, per)
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
