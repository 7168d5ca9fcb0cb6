import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.training.gradient_surgery import pcgrad


def tree(x):
    return {"a": jnp.asarray(x[:2]), "b": {"c": jnp.asarray(x[2:])}}


def apply(rows, seed=0):
    tx = pcgrad(seed)
    return jax.jit(tx.update)([tree(row) for row in rows], tx.init(tree(rows[0])))


def by_hand(rows, orders):
    """The mean of the projected rows, each against the others in its own order."""
    total = np.zeros_like(rows[0])
    for i, order in enumerate(orders):
        g = rows[i].copy()
        for j in order:
            if g @ rows[j] < 0:
                g = g - (g @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += g
    return total / len(rows)


def flat(found):
    return np.concatenate([found["a"], found["b"]["c"]])


def test_the_orders_keys_are_none_that_a_run_splits_off_its_seed():
    keys = [pcgrad(3).init(tree(np.zeros(3))).key]
    keys += [jax.random.key_data(key) for key in jax.random.split(jax.random.wrap_key_data(keys[0]))]
    theirs = jax.random.key_data(jax.random.split(jax.random.key(3), 4))
    assert not {tuple(key.tolist()) for key in keys} & {tuple(key) for key in theirs.tolist()}


def test_gradients_in_agreement_are_averaged():
    rows = [np.array([1.0, 2.0, 0.0], np.float32), np.array([1.0, 0.0, 3.0], np.float32)]
    found, _ = apply(rows)
    np.testing.assert_allclose(flat(found), [1.0, 1.0, 1.5], rtol=1e-6)


def test_two_in_conflict():
    rows = [np.array([1.0, 0.0, 0.0], np.float32), np.array([-1.0, 1.0, 0.0], np.float32)]
    # (1, 0) loses its part along (−1, 1): (0.5, 0.5); (−1, 1) its part along (1, 0): (0, 1).
    found, _ = apply(rows)
    np.testing.assert_allclose(flat(found), [0.25, 0.75, 0.0], atol=1e-6)


def test_three_follow_the_algorithm_in_some_order():
    rng = np.random.default_rng(1)
    for seed in range(5):
        rows = list(rng.normal(size=(3, 5)).astype(np.float32))
        found, _ = apply(rows, seed)
        others = [[j for j in range(3) if j != i] for i in range(3)]
        possible = [by_hand(rows, orders) for orders in itertools.product(*map(itertools.permutations, others))]
        assert min(np.abs(flat(found) - each).max() for each in possible) < 1e-6


def test_orders_differ_from_update_to_update():
    rows = list(np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32))
    tx, found = pcgrad(), set()
    update, state = jax.jit(tx.update), tx.init(tree(rows[0]))
    for _ in range(30):
        updates, state = update([tree(row) for row in rows], state)
        found.add(tuple(np.round(flat(updates), 5).tolist()))
    assert len(found) > 1


def test_a_zero_gradient_takes_no_part():
    rows = [np.array([1.0, -1.0, 2.0], np.float32), np.zeros(3, np.float32)]
    found, _ = apply(rows)
    np.testing.assert_allclose(flat(found), rows[0] / 2)


def test_it_is_the_first_of_a_chain():
    params = tree(np.zeros(3, np.float32))
    tx = optax.chain(pcgrad(), optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    rows = [np.array([3.0, 0.0, 4.0], np.float32)] * 2
    updates, state = tx.update([tree(row) for row in rows], tx.init(params), params, value=0.0)
    np.testing.assert_allclose(flat(updates), [-6e-4, 0, -8e-4], rtol=1e-5)
    chex.assert_tree_all_finite(state)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(dtype):
    rows = [jnp.array([1.0, 0.0, 0.0], dtype), jnp.array([-1.0, 1.0, 0.0], dtype)]
    found, _ = apply(rows)
    chex.assert_type(jax.tree.leaves(found), dtype)
