"""A batch computed in parts, one after another, to save memory."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Rows = TypeVar("Rows")
Sums = TypeVar("Sums")


def sum_over_micro_batches(compute: Callable[[Rows], Sums], rows: Rows, num_parts: int) -> Sums:
    """`compute(rows)` up to rounding, as the sum of its results on parts of the rows.

    Args:
      compute: From rows to a tree of arrays, each a sum over rows.
      rows: Tree of arrays [B, ...].
      num_parts: Number of parts, a divisor of B.
    """
    if num_parts == 1:
        return compute(rows)
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), rows)
    shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, compute(part)), None), zeros, parts)
    return total
