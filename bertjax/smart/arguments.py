"""A batch's arguments, checked: embeddings, keys, mask, and what the model returns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart.norms import at_least_float32


def as_embeddings(embeddings: Any) -> jax.Array:
    """The embeddings as a JAX array; ValueError unless they are one array of floats [B, ...]."""
    if not hasattr(embeddings, "shape"):
        raise ValueError(f"embeddings must be one array [B, ...], found {describe(embeddings)}")
    if not jnp.issubdtype(embeddings.dtype, jnp.floating) or embeddings.ndim < 2:
        raise ValueError(
            f"embeddings must be floats [B, ...], found {describe(embeddings)}: pass what enters the first layer, "
            "such as word embeddings or images, and not token ids"
        )
    return jnp.asarray(embeddings)


def is_typed_key(value: Any) -> bool:
    """Whether the value is a key, or an array of keys, as `jax.random.key` makes them; False for raw uint32."""
    return hasattr(value, "dtype") and bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def keys_of_examples(name: str, key: Any, batch_size: int) -> jax.Array:
    """Keys [B]: the key, split, or the keys [B] themselves; typed keys or raw uint32. ValueError for anything else."""
    is_typed = is_typed_key(key)
    if not is_typed and not (hasattr(key, "dtype") and key.dtype == jnp.uint32):
        raise ValueError(f"{name} must be a key, such as jax.random.key(0), or keys [B], found {describe(key)}")
    batch_shape = key.shape if is_typed else key.shape[:-1]
    if batch_shape == ():
        return jax.random.split(key, batch_size)
    if batch_shape != (batch_size,):
        raise ValueError(
            f"{name} must be one key, or one for each of {batch_size} examples, found keys {list(batch_shape)}"
        )
    return key


def is_per_example(key: Any) -> bool:
    """Whether every leaf is keys [B] rather than one key."""

    def is_batch(leaf: Any) -> bool:
        return bool(getattr(leaf, "ndim", 0) == (1 if is_typed_key(leaf) else 2))

    leaves = jax.tree.leaves(key)
    return bool(leaves) and all(map(is_batch, leaves))


def kept(embeddings: jax.Array, mask: Any) -> jax.Array:
    """1 where the embeddings [B, ...] may be perturbed and 0 elsewhere, of a shape that broadcasts against them.

    Args:
      embeddings: [B, ...].
      mask: None for everywhere; or bool or integers, nonzero where they may be perturbed, of a leading part of the
        embeddings' shape, such as [B, S] for [B, S, D].

    Returns:
      In the embeddings' dtype but at least float32.

    Raises:
      ValueError: The embeddings are no floats [B, ...]; or the mask has another shape, or is of floats, which could be
        an additive mask, or of one integer for each example, which could be lengths.
    """
    embeddings = as_embeddings(embeddings)
    dtype = at_least_float32(embeddings.dtype)
    if mask is None:
        # Made from the embeddings, to be sharded as they are.
        return jnp.ones_like(embeddings[:, *(slice(1) for _ in embeddings.shape[1:])], dtype)
    expected = f"bool or 0/1 integers of a leading part of the embeddings' shape {list(embeddings.shape)}"
    if not hasattr(mask, "dtype") or not hasattr(mask, "shape"):
        raise ValueError(f"mask must be {expected}, found {describe(mask)}")
    could_be_lengths = mask.ndim == 1 and embeddings.ndim > 2
    is_integer = jnp.issubdtype(mask.dtype, jnp.integer) and not could_be_lengths
    is_prefix = mask.ndim and embeddings.shape[: mask.ndim] == mask.shape
    if not (mask.dtype == jnp.bool_ or is_integer) or not is_prefix:
        advice = ": pass mask > 0" if jnp.issubdtype(mask.dtype, jnp.floating) else ""
        if could_be_lengths and mask.dtype != jnp.bool_:
            advice = ", which could be lengths: pass jnp.arange(S) < lengths[:, None]"
        raise ValueError(f"mask must be {expected}, true where they may be perturbed, found {describe(mask)}{advice}")
    return jnp.asarray(mask).astype(jnp.bool_).astype(dtype).reshape(mask.shape + (1,) * (embeddings.ndim - mask.ndim))


def check_logits(name: str, logits: Any, embeddings: jax.Array) -> None:
    """Raises ValueError unless the logits are one float array with a row for each of the embeddings'."""
    expected = f"{name} must map embeddings {list(embeddings.shape)} to one float array of {len(embeddings)} rows"
    if not hasattr(logits, "shape"):
        raise ValueError(f"{expected}, found {describe(logits)}: return the logits alone")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"{expected}, found {describe(logits)}")
    if logits.shape[:1] != embeddings.shape[:1]:
        raise ValueError(
            f"{expected}, found {describe(logits)}: it gets the whole batch, so jax.vmap a model of one example"
        )


def check_per_example(name: str, values: Any, batch_size: int) -> None:
    """Raises ValueError unless the values are [B]."""
    if getattr(values, "shape", None) != (batch_size,):
        raise ValueError(f"{name} must return one number for each example, [{batch_size}], found {describe(values)}")


def checked(logits_fn: Callable[..., jax.Array], name: str = "logits_fn") -> Callable[..., jax.Array]:
    """`logits_fn` with a ValueError unless it maps embeddings [B, ...] to one float array [B, ...]."""

    def call(embeddings: jax.Array, *args: Any) -> jax.Array:
        try:
            logits = logits_fn(embeddings, *args)
        except Exception as error:
            # Flax's error, by name: this module imports jax alone.
            if type(error).__name__ == "TraceContextError":
                raise ValueError(
                    f"{name} changes an NNX module's state: clone and nnx.split the module first, and call "
                    f"nnx.merge(graphdef, params, other_state, copy=True)(x) in {name}"
                ) from error
            raise
        check_logits(name, logits, embeddings)
        return logits

    return call


def describe(value: Any) -> str:
    """A value for an error's line: dtype and shape of an array, else its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{value!r}" if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
