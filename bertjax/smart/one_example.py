"""The adversaries for one example, which callers `jax.vmap` over a batch.

A model that couples the examples of a batch, as BatchNorm does, needs `perturbation` instead: under `jax.vmap` it sees
batches of one.
"""

from collections.abc import Callable
from typing import Any

import jax

from bertjax.smart import adversaries
from bertjax.smart.arguments import describe, is_per_example
from bertjax.smart.divergences import Divergence


def power_iteration(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    *,
    divergence: Divergence | Callable[[jax.Array, jax.Array], jax.Array],
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
      logits_fn: [...] to [C], or to [] or any other shape that the divergence takes without its batch dimension.
      embedding: Floats [...], such as [S, D].
      key: Key of the starting noise, or of the sign if the start is "output".
      divergence: The divergence to maximise, of outputs with a batch dimension.
      radius: If `relative`, the RMS of δ (ℓ2) or its largest element (ℓ∞) as a share of the embedding's RMS over real
        tokens; else the bound on δ's norm.
      num_steps: Power steps. Each costs about two forward passes, after one to linearise. With 0 the start itself is
        scaled to the ball's surface, and for ℓ∞ replaced by its sign.
      norm: "l2" or "linf", over the whole example.
      start: "noise"; "output", Jᵀ u with u from `Divergence.top`; or an array of the embedding's shape, such as the
        gradient of the task's loss, which also lies in the range of Jᵀ.
      kernel: Kernel [D, C] of the linear head, if there is one; it improves the start "output".
      relative: Whether `radius` is relative.
      mask: Bool or 0/1 integers of a leading part of the embedding's shape, such as [S], true on real tokens. Padding
        is not perturbed and does not count in norms.

    Returns:
      δ: Of the embedding's shape and dtype, but at least float32; on the ball's surface. 0 if the start is 0, as the
      start "output" is for a constant model.

    Raises:
      ValueError: `num_steps` is below 0, the norm or start is unknown, or a shape does not fit.

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
    return adversaries.power_iteration(
        _with_batch(logits_fn),
        embedding[None],
        _keys(key),
        divergence=divergence,
        radius=radius,
        num_steps=num_steps,
        norm=norm,
        start=start if isinstance(start, str) else start[None],
        kernel=kernel,
        relative=relative,
        mask=None if mask is None else mask[None],
    )[0]


def projected_gradient_ascent(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    *,
    divergence: Divergence | Callable[[jax.Array, jax.Array], jax.Array],
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
      logits_fn: [...] to [C]; see `power_iteration`.
      embedding: Floats [...], such as [S, D].
      key: Key of the starting noise.
      divergence: l, of outputs with a batch dimension.
      radius: ε, in the embedding's unit; unused if `projection` is "none".
      step_size: η, in the embedding's unit if gradients are normalised.
      noise: σ, in the embedding's unit.
      num_steps: Ascent steps, at least 1; each costs a forward and an input-only backward pass.
      norm: "linf" (the paper's) or "l2".
      per: Scope of a norm: "example" or "token".
      projection: "ball", "sphere" (always scaled to norm ε) or "none".
      normalize_gradient: Whether g is divided by its norm.
      reference: f(x), [C]; if None it is computed, with one forward pass.
      mask: Bool or 0/1 integers of a leading part of the embedding's shape, such as [S], true on real tokens. Padding
        is not perturbed and does not count in norms.

    Returns:
      δ: Of the embedding's shape and dtype, but at least float32.

    Raises:
      ValueError: `num_steps` is below 1, the norm, scope or projection is unknown, or a shape does not fit.

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
    return adversaries.projected_gradient_ascent(
        _with_batch(logits_fn),
        embedding[None],
        _keys(key),
        divergence=divergence,
        radius=radius,
        step_size=step_size,
        noise=noise,
        num_steps=num_steps,
        norm=norm,
        per=per,
        projection=projection,
        normalize_gradient=normalize_gradient,
        reference=None if reference is None else reference[None],
        mask=None if mask is None else mask[None],
    )[0]


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
      embedding: Floats [...], such as [S, D].
      key: Key of the noise.
      radius: ε, in the embedding's unit: a standard deviation, or a bound on each element.
      distribution: "normal" or "uniform".
      mask: Bool or 0/1 integers of a leading part of the embedding's shape, such as [S], true on real tokens. Padding
        is not perturbed.

    Returns:
      δ: Of the embedding's shape and dtype, but at least float32.

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
    mask = None if mask is None else mask[None]
    return adversaries.random_perturbation(
        embedding[None], _keys(key), radius=radius, distribution=distribution, mask=mask
    )[0]


def _with_batch(logits_fn: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], Any]:
    """The model for a batch of one. What it returns is checked later, so it may be anything here."""

    def batch_of_one(embeddings: jax.Array) -> Any:
        logits = logits_fn(embeddings[0])
        return logits[None] if hasattr(logits, "shape") else logits

    return batch_of_one


def _keys(key: Any) -> jax.Array:
    """The key as keys [1]; ValueError for anything else."""
    if not hasattr(key, "dtype") or is_per_example(key):
        raise ValueError(f"key must be one key, such as jax.random.key(0), found {describe(key)}")
    return key[None]
