"""A random share of a batch's rows, of a static number, on which terms are computed without bias."""

from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart.arguments import is_typed_key

_STREAM = 2  # The adversary draws from the keys themselves, unmatched dropout from streams 0 and 1.


def draw_rows(keys: jax.Array, share: float) -> jax.Array | None:
    """Indices of max(1, round(share B)) rows, drawn without replacement, by keys [B]; None for all rows."""
    batch_size = len(keys)
    num_rows = max(1, round(share * batch_size))
    if share == 1 or num_rows == batch_size:
        return None
    draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _STREAM)))(keys)
    return jax.lax.top_k(draws, num_rows)[1]


def take_rows(tree: Any, rows: jax.Array | None, batch_size: int) -> Any:
    """Those rows of each leaf [B, ...]; the tree itself for all rows. ValueError for a leaf of another length."""
    if rows is None:
        return tree

    def take(leaf: jax.Array) -> jax.Array:
        shape = getattr(leaf, "shape", ())
        if shape[:1] != (batch_size,):
            raise ValueError(
                f"share takes rows of every argument: expected a first dimension of {batch_size}, found {list(shape)}"
            )
        if _is_sharded(leaf):
            raise ValueError(
                "share takes rows from all over the batch, which is sharded over explicit mesh axes: "
                "use jax.shard_map, or a mesh with axis_types=(jax.sharding.AxisType.Auto,)"
            )
        # A NumPy array cannot be indexed by a traced one.
        return (leaf if is_typed_key(leaf) else jnp.asarray(leaf))[rows]

    return jax.tree.map(take, tree)


def _is_sharded(leaf: Any) -> bool:
    """Whether the leaf's rows are sharded over an explicit axis of a mesh."""
    kind: Any = jax.typeof(leaf)
    spec: Any = getattr(getattr(kind, "sharding", None), "spec", ())
    return len(spec) > 0 and spec[0] is not None


def spread_rows(values: jax.Array, rows: jax.Array | None, batch_size: int) -> jax.Array:
    """Values [n] of the rows as [B], times B / n, and 0 for the others: the mean is unbiased."""
    if rows is None:
        return values
    factor = jnp.asarray(batch_size / len(values), values.dtype)
    return jnp.zeros(batch_size, values.dtype).at[rows].set(factor * values)
