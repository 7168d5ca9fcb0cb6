"""Gradient surgery (Yu et al., NeurIPS 2020): one gradient from those of several tasks, without their conflicts."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.models.forward import Params

_ORDERS = 0x9C6
"""Separates this random stream from the others of a seed."""


class PcgradState(NamedTuple):
    """The key of the next update's task orders."""

    key: jax.Array


def pcgrad(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Projects each task's gradient onto the normal plane of every other that it conflicts with, then averages.

    For each i, with j over the other tasks in random order, where g_i · g_j < 0:

        g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

    with g_j the unprojected gradient. The paper sums the results; their mean has the scale of one task's gradient.

    Args:
      seed: Seed of the orders.

    Returns:
      A transformation, the first of a chain, whose `update` takes a sequence of gradient trees, one per task, and
      returns a single tree.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from bertjax.training.gradient_surgery import pcgrad
      >>> tx = optax.chain(pcgrad(), optax.sgd(1.0))
      >>> params = jnp.zeros(2)
      >>> gradients = [jnp.array([1.0, 0.0]), jnp.array([-1.0, 1.0])]
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> [round(float(u), 3) for u in updates]
      [-0.25, -0.75]

    Reference:
      Yu et al., Gradient Surgery for Multi-Task Learning, Algorithm 1.
    """

    def init(params: Params) -> PcgradState:
        del params
        return PcgradState(jax.random.key_data(jax.random.fold_in(jax.random.key(seed), _ORDERS)))

    def update(
        gradients: Sequence[Params], state: PcgradState, params: Params = None, **extra_args: Any
    ) -> tuple[Params, PcgradState]:
        del params, extra_args
        key, order_key = jax.random.split(jax.random.wrap_key_data(state.key))
        count = len(gradients)
        # Every projection stays in the span of the gradients: their products suffice, and one weighted sum at the end.
        products = jnp.stack([jnp.stack([_vdot(a, b) for b in gradients]) for a in gradients])
        rows = []
        for i in range(count):
            order = jax.random.permutation(jax.random.fold_in(order_key, i), count)

            def project(row: jax.Array, j: jax.Array, i: int = i) -> tuple[jax.Array, None]:
                along = row @ products[:, j]
                is_conflict = (j != i) & (along < 0)
                share = jnp.where(is_conflict, along / jnp.where(products[j, j] > 0, products[j, j], 1), 0)
                return row.at[j].add(-share), None

            rows.append(jax.lax.scan(project, jnp.eye(count)[i], order)[0])
        weights = jnp.mean(jnp.stack(rows), axis=0)

        def combine(*leaves: jax.Array) -> jax.Array:
            return functools.reduce(jnp.add, [weights[j].astype(x.dtype) * x for j, x in enumerate(leaves)])

        return jax.tree.map(combine, *gradients), PcgradState(jax.random.key_data(key))

    return optax.GradientTransformationExtraArgs(init, update)


def _vdot(a: Params, b: Params) -> jax.Array:
    return optax.tree.vdot(*(optax.tree.cast(tree, jnp.float32) for tree in (a, b)))
