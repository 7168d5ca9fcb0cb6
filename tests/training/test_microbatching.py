import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.training.microbatching import sum_over_micro_batches

X = np.arange(24, dtype=np.float32).reshape(12, 2)
KEYS = jax.random.split(jax.random.key(0), 12)


def sums(rows):
    x, keys = rows
    noise = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    return {"x": jnp.sum(x * noise, axis=0), "rows": jnp.sum(jnp.ones(len(x), jnp.int32))}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 12])
def test_parts_add_up(num_parts):
    noise = np.stack([jax.random.uniform(key, (2,)) for key in KEYS])
    found = jax.jit(sum_over_micro_batches, static_argnums=(0, 2))(sums, (X, KEYS), num_parts)
    chex.assert_trees_all_close(found, {"x": np.sum(X * noise, axis=0), "rows": np.int32(12)}, rtol=1e-6)


def test_only_a_part_is_held_at_once():
    def squares(x):
        return jnp.sum(jnp.sort(x[:, None, :] * x[:, :, None], axis=0))

    def peak(num_parts):
        step = jax.jit(lambda x: sum_over_micro_batches(squares, x, num_parts))
        return step.lower(jnp.ones((64, 64))).compile().memory_analysis().temp_size_in_bytes

    assert peak(16) < peak(1) / 8
