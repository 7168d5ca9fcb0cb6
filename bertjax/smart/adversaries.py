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
    r"""Finds the perturbation that changes the output most, to second order, by power iteration on Jᵀ H J.

    Near δ = 0 the divergence is ½ δᵀ (Jᵀ H J) δ, with J the Jacobian of the logits in the embedding and H
    the divergence's Hessian at the clean logits. Each step takes

      d ← unit(Jᵀ H J d)  for ℓ2,   d ← sign(Jᵀ H J d)  for ℓ∞,

    with one product with the linearised forward pass and one with its transpose. Without finite differences, bfloat16
    is as good as float32. δᵀ (Jᵀ H J) δ never decreases, in either norm. If the product is 0, d is kept.

    Jᵀ H J has rank C − 1 at most (1 for a score), and its eigenvectors are Jᵀ u with u in output space. A start in
    output space costs one backward pass, and for two classes, or one score, it is exact without any step.

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: Key of the starting noise, or of the sign if the start is "output".
      divergence: The divergence to maximise.
      radius: If `relative`, the RMS of δ (ℓ2) or its largest element (ℓ∞) as a share of the embedding's RMS over real
        tokens; else the bound on δ's norm.
      num_steps: Power steps. Each costs about two forward passes, after one to linearise. With 0 the start itself is
        scaled to the ball's surface, and for ℓ∞ replaced by its sign.
      norm: "l2" or "linf", over the whole example.
      start: "noise"; "output", Jᵀ u with u from `divergence.top`; or an array [S, D], such as the gradient of the
        task's loss, which also lies in the range of Jᵀ.
      kernel: Kernel [D, C] of the linear head, if there is one; it improves the start "output".
      relative: Whether `radius` is relative.
      mask: [S], bool or 0/1, true on real tokens. Padding is not perturbed and does not count in norms.

    Returns:
      δ: [S, D], in the embedding's dtype but at least float32, on the ball's surface; 0 if the start is 0. The start
      "output" is 0 for a constant model.

    Raises:
      ValueError: `num_steps` is below 0, the norm or start is unknown, or the start has another shape.

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
      >>> print(jnp.abs(deltas[0]).round(3))  # RMS 0.5, along the axis that w reads
      [[0.707 0.   ]
       [0.707 0.   ]
       [0.707 0.   ]]

    References:
      Miyato et al., Virtual Adversarial Training, TPAMI 2018, section 3.3, with an exact product in place of its
      finite difference; Jiang et al., SMART, ACL 2020, equation 2.
    """
    norms.check_norm(norm)
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, found {num_steps}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = norms.real_tokens(embedding, mask)

    def to_direction(x: jax.Array) -> jax.Array:
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

    direction = to_direction(first)
    for _ in range(num_steps):
        product = vjp(divergence.hvp(logits, jvp(direction.astype(embedding.dtype))))
        direction = jnp.where(jnp.any(product != 0), to_direction(product), direction)
    return jax.lax.stop_gradient(_bound(radius, norm, relative, embedding, keep) * direction)


def _bound(radius: float | jax.Array, norm: str, relative: bool, embedding: jax.Array, keep: jax.Array) -> jax.Array:
    """The bound on δ's norm."""
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
    r"""Finds a perturbation by SMART's Algorithm 1.

      x̃ ← x + ν,  ν ~ N(0, σ²);   then   x̃ ← Π_{‖x̃ − x‖ ≤ ε}(x̃ + η g / ‖g‖),  g = ∇ₓ̃ l(f(x̃), f(x)).

    The defaults are the paper's. Public code uses other values of `per`, `projection` and `normalize_gradient`; see the
    presets.

    Args:
      logits_fn: [S, D] to [C].
      embedding: [S, D].
      key: Key of the starting noise.
      divergence: l.
      radius: ε, in the embedding's unit; unused if `projection` is "none".
      step_size: η, in the embedding's unit if gradients are normalised.
      noise: σ, in the embedding's unit.
      num_steps: Ascent steps, at least 1; each costs a forward and an input-only backward pass.
      norm: "linf" (the paper's) or "l2".
      per: Scope of a norm: "example" or "token".
      projection: "ball", "sphere" (always scaled to norm ε) or "none".
      normalize_gradient: Whether g is divided by its norm.
      reference: f(x), [C]; if None it is computed, with one forward pass.
      mask: [S], bool or 0/1, true on real tokens. Padding is not perturbed and does not count in norms.

    Returns:
      δ: [S, D], in the embedding's dtype but at least float32.

    Raises:
      ValueError: `num_steps` is below 1, or the norm, scope or projection is unknown.

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
      Jiang et al., SMART, ACL 2020, Algorithm 1. At its ε = σ = 1e-5 the divergence is almost 0 in float32, and in
      bfloat16 rounding determines the gradient's sign and much of its direction. `power_iteration` has neither problem.
    """
    norms.check_norm(norm, per)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, found {num_steps}")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, found {projection!r}")
    embedding = jax.lax.stop_gradient(embedding)
    keep = norms.real_tokens(embedding, mask)
    clean_logits = logits_fn(embedding) if reference is None else jax.lax.stop_gradient(reference)
    radius, step_size = jnp.asarray(radius, keep.dtype), jnp.asarray(step_size, keep.dtype)

    def objective(delta: jax.Array) -> jax.Array:
        perturbed = (embedding.astype(delta.dtype) + delta).astype(embedding.dtype)
        return divergence.value(logits_fn(perturbed), clean_logits)

    delta = keep * jnp.asarray(noise, keep.dtype) * jax.random.normal(key, embedding.shape, keep.dtype)
    for _ in range(num_steps):
        gradient = keep * jax.grad(objective)(delta)
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
    r"""Draws noise as R3F does, without a pass through the model: z ~ N(0, ε²) or z ~ U(−ε, ε).

    Args:
      embedding: [S, D].
      key: Key of the noise.
      radius: ε, in the embedding's unit: a standard deviation, or a bound on each element.
      distribution: "normal" or "uniform".
      mask: [S], bool or 0/1, true on real tokens. Padding is not perturbed.

    Returns:
      δ: [S, D], in the embedding's dtype but at least float32.

    Raises:
      ValueError: The distribution is unknown.

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
