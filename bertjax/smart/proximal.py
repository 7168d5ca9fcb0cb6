"""The Bregman proximal point term as an optax transformation, for any model.

A step, with the anchor θ̃ in the transformation's state:

    gradient = ∇ L(θ)                               the caller's
    θ̃ ← β θ̃ + (1 − β) θ                            on every sync_period-th call
    gradient ← gradient + μ ∇_θ D(θ, θ̃)             divergence_fn(θ, θ̃)
    θ ← θ + optimizer(clip(gradient))               the rest of the chain
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params, init_anchor
from bertjax.smart.placement import check_parameters, mean_gradient
from bertjax.smart.settings import Scalar, check_number, is_zero, value_at
from bertjax.smart.update import add, check_period, checked_params, mean_of, required, scalar, synced_anchor


class ProximalState(NamedTuple):
    """State of `add_bregman_proximal`.

    Attributes:
      calls: Calls of `update` so far, int32 [].
      anchor: θ̃, at least float32; None if μ is a plain 0.
      bregman: D of the last call, float32 []; 0 before that.
    """

    calls: jax.Array
    anchor: Params | None
    bregman: jax.Array


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
      weight: μ, a number or a schedule over calls of `update`. With a plain 0 the updates pass unchanged.
      decay: β, a number or a schedule over updates of the anchor.
      sync_period: S, the number of calls per update of the anchor, as in the paper's Algorithm 1. With gradient
        accumulation over k calls it is k: `optax.chain(add_bregman_proximal(..., sync_period=k),
        optax.MultiSteps(tx, k))`.
      axis_name: Axis of `pmap` or `shard_map` over which the term's gradient is averaged; the gradients passed in must
        be averaged already. None suits one device, sharded `jit`, and `shard_map` with check_vma, its default: there
        the term is averaged automatically, and `jax.grad` of a local mean is summed over devices, so average your loss
        by `pmean` too. In `pmap`, or `shard_map` without check_vma, None adds this device's term: average the updates
        after it.

    Returns:
      A GradientTransformationExtraArgs whose `update` takes `divergence_fn`, from (params, anchor) to D, float [B] or
      its mean.

    Raises:
      ValueError: A number is out of range; in `update`, `params` or `divergence_fn` is missing; it is used inside
        `optax.masked`, `optax.multi_transform` or `optax.MultiSteps`.

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
    check_period(sync_period)
    name = "add_bregman_proximal"

    def init_fn(params: Params) -> ProximalState:
        check_parameters(name, params)
        anchor = None if is_zero(weight) else init_anchor(params)
        return ProximalState(jnp.zeros((), jnp.int32), anchor, jnp.zeros((), jnp.float32))

    def update_fn(
        updates: optax.Updates,
        state: ProximalState,
        params: Params | None = None,
        *,
        divergence_fn: Callable[[Params, Params], jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ProximalState]:
        del extra_args
        if is_zero(weight):
            return updates, state._replace(calls=optax.safe_increment(state.calls))
        params = checked_params(name, params)
        divergence = required(name, "divergence_fn", divergence_fn)
        anchor = synced_anchor(state.anchor, params, state.calls, decay, sync_period)
        typed_anchor = optax.tree.cast_like(anchor, params)

        def objective(p: Params) -> tuple[jax.Array, jax.Array]:
            mean = mean_of("divergence_fn", divergence(p, typed_anchor))
            return mean, mean

        gradient, mean = mean_gradient(objective, params, axis_name)
        updates = add(updates, gradient, value_at(weight, state.calls))
        return updates, ProximalState(optax.safe_increment(state.calls), anchor, scalar(mean))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
