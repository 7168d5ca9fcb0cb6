"""Where SMART's transformations may stand in a chain, and over which devices their gradient is averaged."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.ema import Params


def check_parameters(name: str, params: Params) -> None:
    """Raises ValueError if some parameters are masked: the model needs them all."""
    leaves = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(
            f"{name} needs all parameters, found masked ones: chain it before optax.masked, optax.multi_transform or "
            "optax.partition, not in them"
        )


def check_accumulation(name: str) -> None:
    """Raises ValueError inside `optax.MultiSteps`, which would drop the terms of all micro-batches but the last."""
    # MultiSteps gives what it wraps no sign of itself, so look for its frame; this happens at trace time only.
    code, frame = optax.MultiSteps.update.__code__, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is code:
            period = "" if name == "add_smoothness" else ", sync_period=k"
            raise ValueError(
                f"{name} inside optax.MultiSteps sees the last micro-batch alone: use "
                f"optax.chain(smart.{name}(...{period}), optax.MultiSteps(tx, k).gradient_transformation())"
            )


def check_static(name: str, **values: Any) -> None:
    """Raises ValueError for values that `optax.inject_hyperparams` turned into arrays, but that choose the code."""
    if any(isinstance(value, jax.Array) for value in values.values()):
        raise ValueError(
            f"{', '.join(values)} of {name} must be plain Python values, found arrays: use "
            f"optax.inject_hyperparams(smart.{name}, static_args={tuple(values)})"
        )


def mean_gradient(
    objective: Callable[[Params], tuple[jax.Array, Any]], params: Params, axis_name: str | None
) -> tuple[Params, Any]:
    """The gradient and the auxiliary values of a mean, averaged over devices where that can be known.

    Args:
      objective: params to (mean over this device's examples [], auxiliary means).
      params: The parameters.
      axis_name: Axis of `pmap` or `shard_map` to average over. None for the axes over which the objective varies and
        the parameters do not, as `shard_map` with check_vma knows them; it sums gradients over those by itself.
    """
    if axis_name is not None:
        # Makes the parameters vary over the axis: `shard_map` would sum the gradient of replicated parameters.
        here = jax.lax.axis_index(axis_name) >= 0
        params = jax.tree.map(lambda x: jnp.where(here, x, x), params)
        return jax.lax.pmean(jax.grad(objective, has_aux=True)(params), axis_name)
    known = frozenset().union(*(_varying_axes(leaf) for leaf in jax.tree.leaves(params)))

    def averaged(params: Params) -> tuple[jax.Array, Any]:
        return jax.tree.map(mean, objective(params))

    def mean(value: jax.Array) -> jax.Array:
        axes = tuple(sorted(_varying_axes(value) - known))
        value = jax.lax.pmean(value, axes) if axes else value
        # A term that is left out is a constant: let it vary as the others do, for `lax.cond`.
        for axis in known - _varying_axes(value):
            value = jnp.where(jax.lax.axis_index(axis) >= 0, value, value)
        return value

    return jax.grad(averaged, has_aux=True)(params)


def _varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes over which a value varies inside `shard_map` with check_vma; empty elsewhere."""
    kind: Any = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        varying: frozenset[str] = kind.manual_axis_type.varying
        return varying
    return frozenset(kind.vma)  # the name in older versions of JAX
