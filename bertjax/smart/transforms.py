"""SMART as optax transformations: the smoothness term, and both terms together.

A step with `add_smart`, which holds the anchor θ̃ in its state:

    gradient = ∇ L(θ)                                       the caller's
    θ̃ ← β θ̃ + (1 − β) θ                                    on every sync_period-th call
    gradient ← gradient + ∇ (λ R_s(θ) + μ D(θ, θ̃))          terms_fn(θ, θ̃, settings of this update)
    θ ← θ + optimizer(clip(gradient))                       the rest of the chain

The state holds the last R_s and D: `optax.tree.get(opt_state, "smoothness")`, `optax.tree.get(opt_state, "bregman")`.
Call `update` inside your jitted step, since `terms_fn` is a function, not an array.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params, init_anchor
from bertjax.smart.placement import check_parameters, check_static, mean_gradient
from bertjax.smart.presets import as_settings
from bertjax.smart.proximal import ProximalState
from bertjax.smart.settings import (
    Adversary,
    PowerIteration,
    Scalar,
    SmartSettings,
    anchor_decay,
    at_update,
)
from bertjax.smart.terms import Terms
from bertjax.smart.update import add, check_period, checked_params, mean_of, required, scalar, synced_anchor


class SmoothnessState(NamedTuple):
    """State of `add_smoothness`.

    Attributes:
      calls: Calls of `update` so far, int32 [].
      smoothness: R_s when it was last computed, float32 []; 0 before that.
    """

    calls: jax.Array
    smoothness: jax.Array


class SmartState(NamedTuple):
    """State of `add_smart`.

    Attributes:
      calls: Calls of `update` so far, int32 [].
      anchor: θ̃, at least float32; None without a Bregman term.
      smoothness: R_s when it was last computed, float32 []; 0 before that.
      bregman: D of the last call, float32 []; 0 before that.
    """

    calls: jax.Array
    anchor: Params | None
    smoothness: jax.Array
    bregman: jax.Array


def add_smoothness(
    weight: Scalar = 1.0,
    adversary: Adversary | None = PowerIteration(),  # noqa: B008 (a frozen dataclass)
    *,
    clean_gradient: bool = True,
    every: int = 1,
    matched_dropout: bool = True,
    share: float = 1.0,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the smoothness term λ R_s(θ).

      g ← g + λ ∇_θ R_s(θ),   R_s = mean over examples of max over ‖δ‖ ≤ ε of l(f(x + δ; θ), f(x; θ)).

    Args:
      weight: λ, a number or a schedule over calls of `update`.
      adversary: See `SmartSettings`, also for the next four.
      clean_gradient: Whether R_s is also differentiated through its clean pass.
      every: k: R_s enters every k-th update, with k times its weight.
      matched_dropout: Whether all passes share their dropout masks.
      share: Share of each batch's rows on which R_s is computed.
      axis_name: See `add_smart`.

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `smoothness_fn`, from (params, settings of this update) to
      R_s, float [B] or its mean, without λ. It passes the settings on to `smoothness`; for both terms, `add_smart` is
      cheaper than this beside `add_bregman_proximal`.

    Raises:
      ValueError: See `add_smart`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_smoothness(2.0, smart.PowerIteration(radius=0.1)), optax.sgd(0.1))
      >>> params = {"w": jnp.ones((4, 2)).at[0, 0].set(0.0)}
      >>> opt_state = tx.init(params)
      >>> x, key = jnp.ones((8, 3, 4)), jax.random.key(0)
      >>> def smoothness_fn(params, settings):
      ...     logits_fn = lambda x: jnp.mean(x, axis=1) @ params["w"]
      ...     return smart.smoothness(logits_fn, x, key, divergence=smart.symmetric_kl, settings=settings)
      >>> gradient = jax.tree.map(jnp.zeros_like, params)
      >>> updates, opt_state = tx.update(gradient, opt_state, params, smoothness_fn=smoothness_fn)
      >>> float(optax.tree.get(opt_state, "smoothness")) > 0
      True

    References:
      Jiang et al., SMART, ACL 2020, equation 2.
    """
    name = "add_smoothness"
    check_static(name, clean_gradient=clean_gradient, every=every, matched_dropout=matched_dropout, share=share)
    settings = SmartSettings(
        weight=weight,
        adversary=adversary,
        clean_gradient=clean_gradient,
        every=every,
        matched_dropout=matched_dropout,
        share=share,
    )
    tx = _transformation(name, settings, decay=0.0, sync_period=1, replace_updates=False, axis_name=axis_name)

    def init_fn(params: Params) -> SmoothnessState:
        state = tx.init(params)
        return SmoothnessState(state.calls, state.smoothness)

    def update_fn(
        updates: optax.Updates,
        state: SmoothnessState,
        params: Params | None = None,
        *,
        smoothness_fn: Callable[[Params, SmartSettings], jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SmoothnessState]:
        del extra_args
        if not settings.has_smoothness:
            return updates, state._replace(calls=optax.safe_increment(state.calls))
        smoothness = required(name, "smoothness_fn", smoothness_fn)

        def terms_fn(params: Params, anchor: None, settings: SmartSettings) -> Terms:
            del anchor
            zero = jnp.zeros(())
            r_s = mean_of("smoothness_fn", smoothness(params, settings)) if settings.has_smoothness else zero
            return Terms(zero, None, r_s, zero)

        without_anchor = SmartState(state.calls, None, state.smoothness, jnp.zeros_like(state.smoothness))
        updates, after = tx.update(updates, without_anchor, params, terms_fn=terms_fn)
        return updates, SmoothnessState(after.calls, after.smoothness)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def add_smart(
    settings: SmartSettings | str,
    *,
    num_steps: int | None = None,
    sync_period: int = 1,
    replace_updates: bool = False,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of both of SMART's terms, λ R_s(θ) + μ D(θ, θ̃), which share their clean pass.

      θ̃ ← β θ̃ + (1 − β) θ,   g ← g + ∇_θ (λ R_s(θ) + μ D(θ, θ̃)).

    Inside one `jax.jit`, XLA merges the clean pass with that of the gradient passed in, but not the two backward passes
    through it. Chain it before clipping and the optimizer, outside `optax.masked`, and pass `update` a `terms_fn` over
    the step's batch that calls `smart_terms`.

    Args:
      settings: A `SmartSettings`, or a preset's name. "bertjax" needs a `terms_fn` with a `loss_fn`, and computes that
        loss's gradient in the embeddings: the gradient passed in is in the parameters.
      num_steps: Total number of anchor updates; required when the decay depends on the run's length.
      sync_period: See `add_bregman_proximal`.
      replace_updates: Whether the gradient of the whole objective, L + λ R_s + μ D, replaces the updates passed in.
        `terms_fn` then computes L too (`smart_terms(loss_fn=...)`), and one backward pass serves all. XLA leaves out
        the computation of updates that nothing reads.
      axis_name: Axis of `pmap` or `shard_map` over which the terms' gradient is averaged; the gradients passed in must
        be averaged already. None suits one device, sharded `jit`, and `shard_map` with check_vma, its default: there
        the terms are averaged automatically, and `jax.grad` of a local mean is summed over devices, so average your
        loss by `pmean` too. In `pmap`, or `shard_map` without check_vma, None adds this device's terms: average the
        updates after them.

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `terms_fn`, from (params, anchor, settings of this update)
      to `Terms`; its terms are [B], or [] if averaged already.

    Raises:
      ValueError: An unknown preset, or `num_steps` is missing; in `update`, `params` or `terms_fn` is missing; it is
        used inside `optax.masked`, `optax.multi_transform` or `optax.MultiSteps`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> model = smart.SplitModel(
      ...     embed=lambda params, batch: batch["x"],  # [B, S, D]
      ...     logits=lambda params, x, batch, key: jnp.mean(x, axis=1) @ params["w"],  # [B, C]
      ... )
      >>> batch, key = {"x": jax.random.normal(jax.random.key(0), (8, 3, 4))}, jax.random.key(1)
      >>> def terms_fn(params, anchor, settings):
      ...     return smart.smart_terms(
      ...         model, params, anchor, batch, key, key, divergence=smart.symmetric_kl, settings=settings
      ...     )
      >>> tx = optax.chain(smart.add_smart("bertjax_exact", num_steps=100), optax.sgd(0.1))
      >>> params = {"w": jax.random.normal(jax.random.key(2), (4, 2))}
      >>> opt_state = tx.init(params)
      >>> gradient = jax.tree.map(jnp.zeros_like, params)
      >>> updates, opt_state = tx.update(gradient, opt_state, params, terms_fn=terms_fn)
      >>> float(optax.tree.norm(updates)) > 0
      True

    References:
      Jiang et al., SMART, ACL 2020, equations 1 to 3.
    """
    name = "add_smart"
    check_static(name, num_steps=num_steps, replace_updates=replace_updates)
    settings = as_settings(settings)
    check_period(sync_period)
    decay = anchor_decay(settings, num_steps) if settings.has_bregman else 0.0
    return _transformation(name, settings, decay, sync_period, replace_updates, axis_name)


def _transformation(
    name: str,
    settings: SmartSettings,
    decay: Scalar,
    sync_period: int,
    replace_updates: bool,
    axis_name: str | None,
) -> optax.GradientTransformationExtraArgs:
    """`add_smart` under the name that errors give; `decay` is β."""

    def init_fn(params: Params) -> SmartState:
        check_parameters(name, params)
        anchor, zero = init_anchor(params) if settings.has_bregman else None, jnp.zeros((), jnp.float32)
        return SmartState(jnp.zeros((), jnp.int32), anchor, zero, zero)

    def update_fn(
        updates: optax.Updates,
        state: SmartState,
        params: Params | None = None,
        *,
        terms_fn: Callable[[Params, Params | None, SmartSettings], Terms] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SmartState]:
        del extra_args
        if not (settings.has_smoothness or settings.has_bregman or replace_updates):
            return updates, state._replace(calls=optax.safe_increment(state.calls))
        params = checked_params(name, params)
        terms_of = required(name, "terms_fn", terms_fn)
        anchor = None
        if settings.has_bregman:
            anchor = synced_anchor(state.anchor, params, state.calls, decay, sync_period)

        def gradient(now: SmartSettings) -> tuple[Params, tuple[jax.Array, jax.Array]]:
            def objective(p: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
                terms = terms_of(p, anchor, now)
                if not isinstance(terms, Terms):
                    raise ValueError(f"terms_fn must return smart.Terms, found a {type(terms).__name__}")
                if replace_updates and terms.loss is None:
                    raise ValueError(
                        "terms_fn must compute the loss if replace_updates is True: give smart_terms a loss_fn"
                    )
                terms = terms if replace_updates else terms._replace(loss=None)
                means = mean_of("terms_fn", terms.smoothness), mean_of("terms_fn", terms.bregman)
                return mean_of("terms_fn", terms.objective(now)), means

            return mean_gradient(objective, params, axis_name)

        added, (smoothness, bregman) = at_update(settings, state.calls, gradient)
        is_due = state.calls % settings.every == 0
        state = SmartState(
            calls=optax.safe_increment(state.calls),
            anchor=anchor,
            smoothness=jnp.where(is_due, scalar(smoothness), state.smoothness),
            bregman=scalar(bregman),
        )
        if replace_updates:
            return optax.tree.cast_like(added, updates), state
        return add(updates, added, 1.0), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def get_anchor(opt_state: optax.OptState) -> Params:
    """The anchor θ̃ in an optimizer's state, inside any chains and wrappers; for evaluation or export.

    It does not contain θ's last update, which enters at the next call. It is a copy, so that the state can be donated.

    Raises:
      ValueError: The state holds no anchor, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from bertjax import smart
      >>> tx = optax.chain(smart.add_bregman_proximal(), optax.adam(1e-3))
      >>> smart.get_anchor(tx.init({"w": jnp.ones(2)}))["w"].tolist()
      [1.0, 1.0]
    """

    def is_ours(node: Any) -> bool:
        return isinstance(node, ProximalState | SmartState)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_ours)
    found = [node.anchor for node in nodes if is_ours(node) and node.anchor is not None]
    if len(found) != 1:
        raise ValueError(f"opt_state must hold one anchor, from add_bregman_proximal or add_smart, found {len(found)}")
    return init_anchor(found[0])
