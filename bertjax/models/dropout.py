"""Cheap dropout with masks that depend only on the example and the site in the model."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, keys: jax.Array | None, site: int | jax.Array, rate: float) -> jax.Array:
    """Inverted dropout with a mask that depends only on the example's key and the site.

    The mask does not depend on the example's place in a batch or on a device. A batch is the vmap of its examples, and
    several forward passes can share one mask.

    Args:
      x: Any shape for one example, [B, ...] for a batch.
      keys: A key for one example, keys [B] for a batch, or None for no dropout.
      site: Number of the site in the model, from 0.
      rate: Probability of a zero, rounded to a multiple of 2**-32.
    """
    threshold = min(round(rate * 2**32), 2**32 - 1)
    if keys is None or threshold == 0:
        return x
    if keys.ndim:
        return jax.vmap(dropout, (0, 0, None, None))(x, keys, site, rate)
    keep = random_bits(keys, site, x.size).reshape(x.shape) >= jnp.uint32(threshold)
    scale = jnp.asarray(2**32 / (2**32 - threshold), x.dtype)
    return jnp.where(keep, x * scale, jnp.zeros_like(x))


def random_bits(key: jax.Array, site: int | jax.Array, size: int) -> jax.Array:
    """Random words, uint32 [size], from a key and a site.

    Threefry, `jax.random`'s default, took 7% of an update on a CPU, and in a loop XLA does not merge repeated calls.
    The keys still come from Threefry. Words of one mask need only look independent: two rounds of an integer hash
    suffice, and they fuse into the operation that reads the mask.
    """
    words = jax.random.key_data(key)
    counts = jax.lax.iota(jnp.uint32, size) + words[0]
    return _mix(_mix(counts) ^ (words[-1] + jnp.uint32(site) * jnp.uint32(0x9E3779B9)))


def _mix(x: jax.Array) -> jax.Array:
    """Wellons' `lowbias32` (2018), a bijection of uint32: an input bit flips each output bit half of the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def example_keys(key: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] that depend on the example's index, not on its place in a batch or on a device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)
