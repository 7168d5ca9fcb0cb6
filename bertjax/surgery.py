"""Gradient surgery (Yu et al., NeurIPS 2020): several tasks' gradients into one, without their conflicts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Params = Any


class PcgradState(NamedTuple):
    """The key from which each update draws its order of tasks."""

    key: jax.Array


def pcgrad(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Projects each task's gradient onto the normal plane of every other that it conflicts with, then averages.

    For each i, with j over the other tasks in random order, where g_i · g_j < 0:

        g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

    with g_j as it came in. The paper adds the results up; their mean has the scale of one task's gradient.

    Args:
      seed: of the orders.

    Returns:
      A transformation whose `update` takes a sequence of gradient trees, one a task, in place of one tree, and
      returns a single tree: the first of a chain.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from bertjax.surgery import pcgrad
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
        return PcgradState(jax.random.key_data(jax.random.key(seed)))

    def update(
        gradients: Sequence[Params], state: PcgradState, params: Params = None, **extra_args: Any
    ) -> tuple[Params, PcgradState]:
        del params, extra_args
        key, order_key = jax.random.split(jax.random.wrap_key_data(state.key))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
        squares = jnp.stack([optax.tree.vdot(g, g) for g in gradients])
        projected = []
        for i, own in enumerate(gradients):
            order = jax.random.permutation(jax.random.fold_in(order_key, i), len(gradients))

            def project(gradient: Params, j: jax.Array, i: int = i) -> tuple[Params, None]:
                other = jax.tree.map(lambda leaf: leaf[j], stacked)
                product = optax.tree.vdot(gradient, other)
                share = jnp.where((j != i) & (product < 0), product / jnp.maximum(squares[j], 1e-30), 0)
                return jax.tree.map(lambda g, o: g - (share * o).astype(g.dtype), gradient, other), None

            projected.append(jax.lax.scan(project, own, order)[0])
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *projected)
        return mean, PcgradState(jax.random.key_data(key))

    return optax.GradientTransformationExtraArgs(init, update)
