"""What SMART's transformations share: checks of `update`'s arguments, the anchor's move, and the sum."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params, update_anchor
from bertjax.smart.placement import check_accumulation, check_parameters
from bertjax.smart.settings import Scalar, value_at


def checked_params(name: str, params: Params | None) -> Params:
    """The parameters; ValueError if they are missing or masked, or inside `optax.MultiSteps`."""
    check_accumulation(name)
    check_parameters(name, params)
    if params is None:
        raise ValueError(f"{name} needs params: call update(updates, state, params, ...)")
    return params


def required(name: str, argument: str, value: Any) -> Any:
    """An argument of `update`; ValueError if it is missing."""
    if value is None:
        raise ValueError(
            f"{name} needs {argument}: call update(updates, state, params, {argument}=...), as chain passes it on and "
            "Flax's TrainState.apply_gradients does not"
        )
    return value


def check_period(sync_period: Any) -> None:
    """Raises ValueError for a number of calls below 1."""
    # `optax.inject_hyperparams` turns numbers into arrays.
    if not isinstance(sync_period, jax.Array) and not (isinstance(sync_period, int) and sync_period >= 1):
        raise ValueError(f"sync_period must be at least 1, found {sync_period!r}")


def synced_anchor(
    anchor: Params, params: Params, calls: jax.Array, decay: Scalar, sync_period: int | jax.Array
) -> Params:
    """The anchor, moved at every S-th call."""

    def moved() -> Params:
        return update_anchor(anchor, params, value_at(decay, calls // sync_period))

    if isinstance(sync_period, int) and sync_period == 1:
        return moved()
    return jax.lax.cond(calls % sync_period == 0, moved, lambda: anchor)


def mean_of(name: str, values: Any) -> jax.Array:
    """The mean of a term, [B] or []; ValueError for anything else."""
    if not hasattr(values, "ndim") or values.ndim > 1:
        found = list(values.shape) if hasattr(values, "shape") else f"a {type(values).__name__}"
        raise ValueError(f"{name} must return one number for each example, [B], or their mean, [], found {found}")
    return jnp.mean(values)


def scalar(mean: jax.Array) -> jax.Array:
    """A mean for the state: float32, and no part of any outer gradient."""
    return jax.lax.stop_gradient(mean).astype(jnp.float32)


def add(updates: optax.Updates, gradient: Params, factor: Any) -> optax.Updates:
    """The updates plus the gradient times a factor, in the updates' dtypes."""
    return jax.tree.map(lambda u, g: u + (jnp.asarray(factor, g.dtype) * g).astype(u.dtype), updates, gradient)
