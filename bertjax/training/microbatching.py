"""A large batch in parts, one after another, for memory that cannot hold it at once."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Rows = TypeVar("Rows")
Sums = TypeVar("Sums")


def sum_over_micro_batches(compute: Callable[[Rows], Sums], rows: Rows, num_parts: int) -> Sums:
    """`compute` of all rows at once, from its sums over parts of them: the same up to rounding.

    Args:
      compute: from rows to a tree of arrays, each a sum over rows.
      rows: a tree of arrays [B, ...].
      num_parts: parts, of which B is a multiple; with 1, `compute` is called as it is.
    """
    if num_parts == 1:
        return compute(rows)
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), rows)
    shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], parts))
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, compute(part)), None), none, parts)
    return total
