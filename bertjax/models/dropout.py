"""Dropout whose masks follow the example and the place in the model, at next to no cost."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, keys: jax.Array | None, site: int | jax.Array, rate: float) -> jax.Array:
    """Inverted dropout whose mask depends on an example's own key and on the site alone.

    Masks follow the example, never its place in a batch or on a device, so a batch is the vmap of its
    examples and one mask can serve several forward passes.

    Args:
      x: [..., *shape].
      keys: a key for one example, keys [B] for a batch, or None to drop nothing.
      site: number of the place in the model, from 0; no two places share one.
      rate: probability of a zero, rounded to a multiple of 2**-32.
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
    """Random words, uint32 [size], of a key and a site.

    Threefry, `jax.random`'s own, took 7% of an update on a CPU, and where it stands inside a loop XLA does not merge
    what repeats it. Keys come from it, so they are far apart; a word of a mask need only look random beside the others,
    and two rounds of an integer hash see to that, fused into whatever reads the mask.
    """
    words = jax.random.key_data(key)
    counts = jax.lax.iota(jnp.uint32, size) + words[0]
    return _mix(_mix(counts) ^ (words[-1] + jnp.uint32(site) * jnp.uint32(0x9E3779B9)))


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every bit in moves every bit out by half: Wellons' `lowbias32` (2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def example_keys(key: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] that depend on an example and not on its place in a batch or on a device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)
