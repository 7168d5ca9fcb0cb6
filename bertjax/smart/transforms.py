"""SMART as optax transformations: each adds the gradient of its term to the updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params, init_anchor, update_anchor
from bertjax.smart.presets import preset
from bertjax.smart.settings import (
    Adversary,
    PowerIteration,
    Scalar,
    SmartSettings,
    anchor_decay,
    at_update,
    check_number,
    is_zero,
    value_at,
)
from bertjax.smart.terms import Terms


class SmartState(NamedTuple):
    """State of all three transformations.

    Attributes:
      count: Calls of `update` so far, int32 [].
      anchor: θ̃, at least float32; None without a Bregman term.
    """

    count: jax.Array  # type: ignore[assignment]  # optax's name for it
    anchor: Params | None


def add_bregman_proximal(
    weight: Scalar = 1.0,
    decay: Scalar = 0.99,
    *,
    sync_period: int = 1,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the Bregman proximal point term μ D(θ, θ̃), where θ̃ is a moving average of θ.

    Each call first moves the anchor, then adds the gradient:

      θ̃ ← β θ̃ + (1 − β) θ,   g ← g + μ ∇_θ D(θ, θ̃),   D = mean of l(f(x; θ), f(x; θ̃)),

    which is equivalent to moving the anchor after each step. Chain it before clipping and the optimizer, outside
    `optax.masked`, and pass `update` a `divergence_fn` over the step's batch.

    Args:
      weight: μ, a number or a schedule over calls of `update`. With a plain 0 the transformation is the identity.
      decay: β, a number or a schedule over updates of the anchor.
      sync_period: S, the number of calls per update of the anchor, as in the paper's Algorithm 1. With gradient
        accumulation over k calls it is k: `optax.chain(add_bregman_proximal(..., sync_period=k),
        optax.MultiSteps(tx, k))`.
      axis_name: Axis of `pmap` or `shard_map` over which the term's gradient is averaged; the gradients passed in must
        be averaged already. With None the term is local: average after it (`shard_map` with check_vma=False).

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `divergence_fn`, from (params, anchor) to D, float [].

    Raises:
      ValueError: A number is out of range; in `update`, `params` or `divergence_fn` is missing.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_bregman_proximal(weight=1.0, decay=0.9), optax.sgd(0.1))
      >>> params = {"w": jnp.ones(2)}
      >>> opt_state = tx.init(params)
      >>> def divergence_fn(params, anchor):
      ...     return jnp.sum(jnp.square(params["w"] - anchor["w"]))
      >>> gradient = {"w": jnp.array([1.0, 0.0])}
      >>> for _ in range(2):
      ...     updates, opt_state = tx.update(gradient, opt_state, params, divergence_fn=divergence_fn)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params["w"].round(3))  # D pulls the second step back by 0.1 · 2 · 0.9 · 0.1
      [0.818 1.   ]

    References:
      Jiang et al., SMART, ACL 2020, equation 3 and Algorithm 1.
    """
    check_number("weight", weight)
    check_number("decay", decay, maximum=1)
    _check_period(sync_period)
    if is_zero(weight):
        return _identity()

    def init(params: Params) -> SmartState:
        return SmartState(jnp.zeros((), jnp.int32), init_anchor(params))

    def update(
        updates: optax.Updates,
        state: SmartState,
        params: Params | None = None,
        *,
        divergence_fn: Callable[[Params, Params], jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SmartState]:
        del extra_args
        params = _require("add_bregman_proximal", "params", params)
        divergence = _require("add_bregman_proximal", "divergence_fn", divergence_fn)
        anchor = _synced(state, params, decay, sync_period)
        typed_anchor = optax.tree.cast_like(anchor, params)
        gradient = _local_gradient(lambda p: divergence(p, typed_anchor), params, axis_name)
        factor = value_at(weight, state.count)
        return _add(updates, gradient, factor, axis_name), SmartState(state.count + 1, anchor)

    return optax.GradientTransformationExtraArgs(init, update)


def add_smoothness(
    weight: Scalar = 1.0,
    adversary: Adversary | None = PowerIteration(),  # noqa: B008 (a frozen dataclass)
    *,
    clean_gradient: bool = True,
    every: int = 1,
    matched_dropout: bool = True,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the smoothness term λ R_s(θ); `smart` without its Bregman term.

      g ← g + λ ∇_θ R_s(θ),   R_s = mean over examples of max over ‖δ‖ ≤ ε of l(f(x + δ; θ), f(x; θ)).

    Args:
      weight: λ, a number or a schedule over calls of `update`.
      adversary: See `SmartSettings`, also for the next three.
      clean_gradient: Whether R_s is also differentiated through its clean pass.
      every: k: R_s enters every k-th update, with k times its weight.
      matched_dropout: Whether all passes share their dropout masks.
      axis_name: See `smart`.

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `terms_fn`, as for `smart`, with None for the anchor.

    Raises:
      ValueError: See `smart`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_smoothness(2.0, smart.PowerIteration(radius=0.1)), optax.sgd(0.1))
      >>> tx.init({"w": jnp.ones(2)})[0].anchor is None
      True

    References:
      Jiang et al., SMART, ACL 2020, equation 2.
    """
    settings = SmartSettings(
        weight=weight,
        adversary=adversary,
        clean_gradient=clean_gradient,
        every=every,
        matched_dropout=matched_dropout,
    )
    return smart(settings, axis_name=axis_name)


def smart(
    settings: SmartSettings | str,
    *,
    num_steps: int | None = None,
    sync_period: int = 1,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of both of SMART's terms, λ R_s(θ) + μ D(θ, θ̃), which share their clean pass.

      θ̃ ← β θ̃ + (1 − β) θ,   g ← g + ∇_θ (λ R_s(θ) + μ D(θ, θ̃)).

    Inside one `jax.jit`, XLA merges the clean pass with that of the gradient passed in. Chain it before clipping and
    the optimizer, outside `optax.masked`, and pass `update` a `terms_fn` over the step's batch that calls
    `smart_terms`.

    Args:
      settings: A `SmartSettings`, or a preset's name. "bertjax" needs a `terms_fn` with a `loss_fn`, and computes that
        loss's gradient in the embeddings: the gradient passed in is in the parameters.
      num_steps: Total number of anchor updates; required when the decay depends on the run's length.
      sync_period: See `add_bregman_proximal`.
      axis_name: Axis of `pmap` or `shard_map` over which the terms' gradient is averaged; the gradients passed in must
        be averaged already. With None the terms are local: average after them (`shard_map` with check_vma=False).

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `terms_fn`, from (params, anchor, settings of this update)
      to `Terms`; leaves are [B], or [] if averaged already.

    Raises:
      ValueError: An unknown preset, or `num_steps` is missing; in `update`, `params` or `terms_fn` is missing.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> model = smart.Model(
      ...     embed=lambda params, example: example["x"],  # [S, D]
      ...     logits=lambda params, x, example, key: jnp.mean(x, axis=0) @ params["w"],  # [C]
      ... )
      >>> batch = {"x": jax.random.normal(jax.random.key(0), (8, 3, 4))}
      >>> keys = jax.random.split(jax.random.key(1), 8)
      >>> def terms_fn(params, anchor, settings):
      ...     return smart.smart_terms(
      ...         model, params, anchor, batch, keys, keys,
      ...         mask=jnp.ones((8, 3), bool), divergence=smart.symmetric_kl, settings=settings,
      ...     )
      >>> tx = optax.chain(smart.smart("bertjax_exact", num_steps=100), optax.sgd(0.1))
      >>> params = {"w": jax.random.normal(jax.random.key(2), (4, 2))}
      >>> opt_state = tx.init(params)
      >>> gradient = jax.tree.map(jnp.zeros_like, params)
      >>> updates, opt_state = tx.update(gradient, opt_state, params, terms_fn=terms_fn)
      >>> float(optax.tree.norm(updates)) > 0
      True

    References:
      Jiang et al., SMART, ACL 2020, equations 1 to 3.
    """
    settings = preset(settings) if isinstance(settings, str) else settings
    _check_period(sync_period)
    if not (settings.has_smoothness or settings.has_bregman):
        return _identity()
    decay = anchor_decay(settings, num_steps) if settings.has_bregman else 0.0

    def init(params: Params) -> SmartState:
        return SmartState(jnp.zeros((), jnp.int32), init_anchor(params) if settings.has_bregman else None)

    def update(
        updates: optax.Updates,
        state: SmartState,
        params: Params | None = None,
        *,
        terms_fn: Callable[[Params, Params | None, SmartSettings], Terms] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SmartState]:
        del extra_args
        params = _require("smart", "params", params)
        terms_of = _require("smart", "terms_fn", terms_fn)
        anchor = _synced(state, params, decay, sync_period) if settings.has_bregman else None

        def gradient(settings: SmartSettings) -> Params:
            def objective(p: Params) -> jax.Array:
                terms: Terms = terms_of(p, anchor, settings)
                return jnp.mean(terms._replace(loss=jnp.zeros_like(terms.loss)).objective(settings))

            return _local_gradient(objective, params, axis_name)

        added = at_update(settings, state.count, gradient)
        return _add(updates, added, 1.0, axis_name), SmartState(state.count + 1, anchor)

    return optax.GradientTransformationExtraArgs(init, update)


def anchor(opt_state: optax.OptState) -> Params:
    """The anchor θ̃ in an optimizer's state, inside any chains and wrappers; for evaluation or export.

    It does not contain θ's last update, which enters at the next call. It is a copy, so that the state can be donated.

    Raises:
      ValueError: The state holds no anchor, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_bregman_proximal(), optax.adam(1e-3))
      >>> smart.anchor(tx.init({"w": jnp.ones(2)}))["w"].tolist()
      [1.0, 1.0]
    """

    def is_ours(node: Any) -> bool:
        return isinstance(node, SmartState)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_ours)
    found = [node.anchor for node in nodes if is_ours(node) and node.anchor is not None]
    if len(found) != 1:
        raise ValueError(f"opt_state must hold one anchor, from add_bregman_proximal or smart, found {len(found)}")
    return init_anchor(found[0])


def _identity() -> optax.GradientTransformationExtraArgs:
    """The identity, which accepts every extra argument."""
    return optax.with_extra_args_support(optax.identity())


def _require(name: str, argument: str, value: Any) -> Any:
    """An argument of `update`; ValueError if it is missing."""
    if value is None:
        raise ValueError(f"{name} needs {argument}: call update(updates, state, params, {argument}=...)")
    return value


def _check_period(sync_period: Any) -> None:
    # `optax.inject_hyperparams` turns numbers into arrays.
    if isinstance(sync_period, int) and sync_period < 1:
        raise ValueError(f"sync_period must be at least 1, found {sync_period}")


def _synced(state: SmartState, params: Params, decay: Scalar, sync_period: int | jax.Array) -> Params:
    """The anchor, moved at every S-th call."""

    def moved() -> Params:
        return update_anchor(state.anchor, params, value_at(decay, state.count // sync_period))

    if isinstance(sync_period, int) and sync_period == 1:
        return moved()
    return jax.lax.cond(state.count % sync_period == 0, moved, lambda: state.anchor)


def _local_gradient(objective: Callable[[Params], jax.Array], params: Params, axis_name: str | None) -> Params:
    if axis_name is not None:
        # Makes the parameters vary over the axis: `shard_map` would sum the gradient of replicated parameters.
        here = jax.lax.axis_index(axis_name) >= 0
        params = jax.tree.map(lambda x: jnp.where(here, x, x), params)
    return jax.grad(objective)(params)


def _add(updates: optax.Updates, gradient: Params, factor: Any, axis_name: str | None) -> optax.Updates:
    if axis_name is not None:
        gradient = jax.lax.pmean(gradient, axis_name)
    return jax.tree.map(lambda u, g: u + (jnp.asarray(factor, g.dtype) * g).astype(u.dtype), updates, gradient)
