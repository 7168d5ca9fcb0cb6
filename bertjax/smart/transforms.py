"""SMART as optax transformations: each adds the gradient of its term to the updates that pass through it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params, init_anchor, like_params, update_anchor
from bertjax.smart.presets import preset
from bertjax.smart.settings import Scalar, SmartSettings, anchor_decay, at_update, check_number, is_zero, value_at
from bertjax.smart.terms import Terms


class SmartState(NamedTuple):
    """State of all three transformations.

    Attributes:
      count: calls so far, int32 [].
      anchor: θ̃, of dtype float32 at least, or None without a Bregman term.
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
    r"""Adds the gradient of a Bregman proximal point term, μ D(θ, θ̃), against a moving average θ̃ of θ.

    On entering a step, before the gradient,

      θ̃ ← β θ̃ + (1 − β) θ,   g ← g + μ ∇_θ D(θ, θ̃),   D = mean of l(f(x; θ), f(x; θ̃)),

    which reproduces "step, then move the anchor". Put it before clipping and the optimizer, outside
    `optax.masked`, and hand `update` a `divergence_fn` over the step's batch.

    Args:
      weight: μ, a number or a schedule of the calls of `update`; a plain 0 leaves the gradient alone, and keeps no
        anchor.
      decay: β, a number or a schedule of the anchor's own updates.
      sync_period: S, updates of θ to one of θ̃, as in the paper's Algorithm 1. With gradient accumulation over k
        calls, `optax.chain(add_bregman_proximal(..., sync_period=k), optax.MultiSteps(tx, k))`, it is k.
      axis_name: of `pmap` or `shard_map`: D's gradient is averaged over the axis, to be chained after the
        gradients themselves were averaged. With None everything is local: chain it on local gradients, and
        average after (`shard_map` with check_vma=False).

    Returns:
      A GradientTransformationExtraArgs; its `update` takes `divergence_fn`, from (params, anchor) to D,
      float [].

    Raises:
      ValueError: a number out of range; by `update`, without `params` or `divergence_fn`.

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
      >>> print(params["w"].round(3))  # the second step is pulled back by 0.1 · 2 · 0.9 · 0.1
      [0.818 1.   ]

    References:
      Jiang et al., SMART, ACL 2020, equation 3 and Algorithm 1.
    """
    check_number("weight", weight)
    check_number("decay", decay, most=1)
    _check_period(sync_period)
    if is_zero(weight):
        return _nothing()

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
        run = like_params(anchor, params)
        gradient = _local_gradient(lambda p: divergence(p, run), params, axis_name)
        factor = value_at(weight, state.count)
        return _add(updates, gradient, factor, axis_name), SmartState(state.count + 1, anchor)

    return optax.GradientTransformationExtraArgs(init, update)


def add_smoothness(
    weight: Scalar = 1.0, *, axis_name: str | None = None, **settings: Any
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the smoothness term, λ R_s(θ): `smart` without its Bregman half.

      g ← g + λ ∇_θ R_s(θ),   R_s = mean over examples of max over ‖δ‖ ≤ ε of l(f(x + δ; θ), f(x; θ)).

    Args:
      weight: λ, a number or a schedule.
      axis_name: as for `smart`.
      **settings: of `SmartSettings`: radius, adversary, start, every, ...; none of the Bregman term's.

    Returns:
      A GradientTransformationExtraArgs; its `update` takes `terms_fn`, as `smart`'s does, with None for the
      anchor.

    Raises:
      ValueError: as `smart`, and for a setting of the Bregman term.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_smoothness(weight=2.0, radius=0.1), optax.sgd(0.1))
      >>> tx.init({"w": jnp.ones(2)})[0].anchor is None
      True

    References:
      Jiang et al., SMART, ACL 2020, equation 2.
    """
    for name in ("bregman_weight", "decay", "horizon"):
        if name in settings:
            raise ValueError(f"{name} is of the Bregman term, which add_smoothness leaves out; use smart")
    return smart(SmartSettings(weight=weight, **settings), axis_name=axis_name)


def smart(
    settings: SmartSettings | str,
    *,
    num_steps: int | None = None,
    sync_period: int = 1,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of both of SMART's terms, λ R_s(θ) + μ D(θ, θ̃), which share their clean pass.

      θ̃ ← β θ̃ + (1 − β) θ,   g ← g + ∇_θ (λ R_s(θ) + μ D(θ, θ̃)).

    Inside one `jax.jit`, XLA merges the clean pass with that of the gradient that came in. Put it before clipping
    and the optimizer, outside `optax.masked`, and hand `update` a `terms_fn` over the step's batch, which calls
    `smart_terms`.

    Args:
      settings: a `SmartSettings`, or a preset's name. "bertjax" wants a `terms_fn` with a `loss_fn`, whose gradient it
        takes a second time here: the one that came in does not reach down to the embeddings.
      num_steps: the anchor's own updates in the whole run, where its decay is given by shares of it: one to S updates
        of θ. Other schedules count calls of `update`.
      sync_period: S, as for `add_bregman_proximal`.
      axis_name: of `pmap` or `shard_map`: the terms' gradient is averaged over the axis, to be chained after
        the gradients themselves were averaged. With None everything is local: chain it on local gradients,
        and average after (`shard_map` with check_vma=False).

    Returns:
      A GradientTransformationExtraArgs; its `update` takes `terms_fn`, from (params, anchor, settings of
      this update) to `Terms`, whose leaves are averaged: [B], or [] where that is done.

    Raises:
      ValueError: a preset that does not exist, `num_steps` missing; by `update`, without `params` or `terms_fn`.

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
        return _nothing()
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
    """The anchor θ̃ within an optimizer's state, however deep in chains and wrappers; for evaluation or export.

    It is as of the last step's entry: θ's last update is not in it. A copy, of dtype float32 at least: donating the
    state leaves it whole.

    Raises:
      ValueError: no anchor in the state, or several.

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
        raise ValueError(f"opt_state must hold one anchor, of add_bregman_proximal or smart; found {len(found)}")
    return init_anchor(found[0])


def _nothing() -> optax.GradientTransformationExtraArgs:
    """The identity: it takes every extra argument, and computes nothing."""
    return optax.with_extra_args_support(optax.identity())


def _require(name: str, argument: str, value: Any) -> Any:
    """The argument of `update`; ValueError where it is missing."""
    if value is None:
        raise ValueError(f"{name} needs {argument}: call update(updates, state, params, {argument}=...)")
    return value


def _check_period(sync_period: Any) -> None:
    # `optax.inject_hyperparams` makes arrays of the numbers that it is given.
    if isinstance(sync_period, int) and sync_period < 1:
        raise ValueError(f"sync_period must be at least 1, found {sync_period}")


def _synced(state: SmartState, params: Params, decay: Scalar, sync_period: int | jax.Array) -> Params:
    """The anchor moved, at every S-th call."""

    def moved() -> Params:
        return update_anchor(state.anchor, params, value_at(decay, state.count // sync_period))

    if isinstance(sync_period, int) and sync_period == 1:
        return moved()
    return jax.lax.cond(state.count % sync_period == 0, moved, lambda: state.anchor)


def _local_gradient(objective: Callable[[Params], jax.Array], params: Params, axis_name: str | None) -> Params:
    if axis_name is not None:
        # A choice by the device's own number, so that they vary over the axis: of parameters that it knows to be the
        # same everywhere, `shard_map` would sum the gradient over the axis by itself.
        here = jax.lax.axis_index(axis_name) >= 0
        params = jax.tree.map(lambda x: jnp.where(here, x, x), params)
    return jax.grad(objective)(params)


def _add(updates: optax.Updates, gradient: Params, factor: Any, axis_name: str | None) -> optax.Updates:
    if axis_name is not None:
        gradient = jax.lax.pmean(gradient, axis_name)
    return jax.tree.map(lambda u, g: u + (jnp.asarray(factor, g.dtype) * g).astype(u.dtype), updates, gradient)
