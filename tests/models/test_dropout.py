"""Masks: as often as asked, an example's own, and random beside those of other places, examples and neighbours."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.dropout import dropout, example_keys, random_bits

KEYS = jax.random.split(jax.random.key(0), 3)
N = 200_001


def raw(high, low):
    return jax.random.wrap_key_data(np.array([high, low], np.uint32))


def words(key, site=0, size=N):
    return np.asarray(random_bits(key, site, size))


def mix(x):
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_the_words_by_hand():
    key = raw(0xFFFFFFFE, 0x12345678)
    expected = [mix(mix((0xFFFFFFFE + i) % 2**32) ^ (0x12345678 + 3 * 0x9E3779B9) % 2**32) for i in range(5)]
    assert words(key, 3, 5).tolist() == expected


def correlation(a, b):
    """Of the words' bits, in standard errors: the largest of all pairs of places in a word."""
    bits = [((x[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float32) * 2 - 1 for x in (a, b)]
    return np.abs(bits[0].T @ bits[1]).max() / math.sqrt(len(a))


# Of 32 x 32 pairs of independent bits the largest lies above 5.5 standard errors once in 26,000 times.
LARGEST = 5.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((KEYS[0], 0), (KEYS[1], 0)),
        ((KEYS[0], 0), (KEYS[0], 1)),
        ((KEYS[0], 6), (KEYS[0], 7)),
        ((jax.random.key(0), 0), (jax.random.key(1), 0)),
        ((raw(1, 0), 0), (raw(2, 0), 0)),
        ((jax.random.key(0), 1), (jax.random.key(1), 2)),
    ],
    ids=["examples", "places", "late places", "keys apart in the low word", "in the high word", "in both"],
)
def test_two_masks_know_nothing_of_each_other(one, other):
    assert correlation(words(*one), words(*other)) < LARGEST


@pytest.mark.parametrize("distance", [1, 2, 32, 384])
def test_neighbours_in_a_mask_know_nothing_of_each_other(distance):
    for key in (KEYS[0], jax.random.key(0)):
        found = words(key)
        assert correlation(found[:-distance], found[distance:]) < LARGEST


@pytest.mark.parametrize("key", [*KEYS, jax.random.key(0)], ids=str)
def test_the_bits_are_fair(key):
    bits = (words(key)[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("site", [0, 4, 19])
def test_masks_of_many_examples_and_updates_are_independent(site):
    """Keys as a run folds them: by update, then by example. Sums along each axis vary as those of fair coins."""
    updates, examples, elements = 2000, 32, 32

    def mask(update):
        keys = example_keys(jax.random.key(0), update, jnp.arange(examples))
        return jax.vmap(lambda key: random_bits(key, site, elements))(keys) >= jnp.uint32(2**31)

    coins = np.asarray(jax.jit(jax.vmap(mask))(jnp.arange(updates))).astype(np.float64)
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / math.sqrt(coins.size)
    for sums in (coins.sum(0), coins.sum(1), coins.sum(2), np.einsum("uee->ue", coins).sum(1)):
        tosses = coins.size / sums.size if sums.ndim > 1 else elements
        # The variance of n sums is known to 1 in sqrt(n / 2).
        assert abs(np.var(sums) / (tosses / 4) - 1) < 4 * math.sqrt(2 / sums.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_keeps_and_scales_as_it_should(rate):
    kept = np.asarray(jax.jit(dropout, static_argnums=(2, 3))(jnp.ones(N), jax.random.key(3), 0, rate))
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / (1 - rate))}
    # Four standard errors.
    assert abs(np.mean(kept == 0) - rate) < 4 * math.sqrt(rate * (1 - rate) / N)
    assert abs(kept.mean() - 1) < 4 * math.sqrt(rate / (1 - rate) / N)


def test_masks_follow_the_example_and_not_its_place():
    x, order = jnp.ones((3, 5, 7)), np.array([2, 0, 1])
    chex.assert_trees_all_equal(dropout(x, KEYS[order], 4, 0.5), dropout(x, KEYS, 4, 0.5)[order])
    chex.assert_trees_all_equal(dropout(x, KEYS, 4, 0.5)[1], dropout(x[1], KEYS[1], 4, 0.5))


def test_it_scales_values_and_gradients_alike():
    x = jnp.arange(1.0, 8.0)
    y, pull = jax.vjp(lambda x: dropout(x, jax.random.key(0), 0, 0.5), x)
    kept = np.asarray(y) != 0
    assert 0 < kept.sum() < 7
    chex.assert_trees_all_equal(y, np.where(kept, 2 * np.asarray(x), np.float32(0)))
    chex.assert_trees_all_equal(pull(jnp.ones(7))[0], np.where(kept, np.float32(2), np.float32(0)))


def test_of_nothing_it_changes_nothing():
    x = jnp.arange(7.0)
    assert dropout(x, None, 0, 0.5) is x
    assert dropout(x, jax.random.key(0), 0, 0.0) is x
    # A rate that rounds to 1 still keeps one element of 2**32.
    chex.assert_tree_all_finite(dropout(x, jax.random.key(0), 0, 1 - 1e-12))
