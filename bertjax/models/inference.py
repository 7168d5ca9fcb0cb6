"""A pre-trained model as plain functions: hidden states, and the logits of its sentence head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models.config import BertConfig
from bertjax.models.encoder import Encoder
from bertjax.models.families import build_encoder


@partial(jax.jit, static_argnames="config")
def _encode(params: Any, config: BertConfig, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    outputs: Any = build_encoder(config).apply({"params": params}, *inputs)
    return outputs


def encode(
    params: Any,
    config: BertConfig,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs a pre-trained model as a plain encoder, in float32, without dropout.

    Args:
      params: Parameters from `load_pretrained` or from training.
      config: Their architecture.
      input_ids: int [B, S] or [S].
      attention_mask: bool or int of the same shape, 0 on padding and else 1; None for all ones.
      token_type_ids: int of the same shape; None for all zeros. A model with a single type takes 1 for 0.

    Returns:
      Hidden states [B, S, D] and pooled output [B, D], both float32. The pooled output is what a sentence head reads.

    Raises:
      ValueError: The shapes differ, S is 0 or exceeds the model's number of positions, or a value is out of range.
        Values are not checked under a transformation such as `jax.jit`.
    """
    return _encode(params, config, *_checked_inputs(config, input_ids, attention_mask, token_type_ids))


@partial(jax.jit, static_argnames="config")
def _classify(params: Any, config: BertConfig, *inputs: jax.Array) -> jax.Array:
    ids, mask, types = inputs

    def run(bert: Encoder) -> jax.Array:
        return bert.logits(bert.embed(ids, types), mask, "own")

    own = {"own": params["classifier"]["bias"].shape[0]}
    logits: Any = build_encoder(config, own).apply({"params": params | {"head_own": params["classifier"]}}, method=run)
    return logits


def classify(
    params: Any,
    config: BertConfig,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
) -> jax.Array:
    """Logits of a checkpoint's own sentence head, in float32, without dropout.

    Args:
      params: Parameters from `load_pretrained`, with "classifier".
      config: Their architecture.
      input_ids: See `encode`, as for the other two.
      attention_mask: See there.
      token_type_ids: See there.

    Returns:
      Logits [B, C], or scores [B, 1].

    Raises:
      ValueError: There is no sentence head; the first token, which the head reads, is padding; or see `encode`.
    """
    if "classifier" not in params:
        raise ValueError("params must have a sentence head, 'classifier', found none: the checkpoint has no such head")
    ids, mask, types = _checked_inputs(config, input_ids, attention_mask, token_type_ids)
    if not config.pools_mean and not isinstance(mask, jax.core.Tracer) and not mask[..., 0].all():
        raise ValueError("attention_mask must be 1 at the first token, which the sentence head reads; pad on the right")
    return _classify(params, config, ids, mask, types)


def _checked_inputs(
    config: BertConfig, input_ids: Any, attention_mask: Any, token_type_ids: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    ids = _checked(input_ids, "input_ids", config.vocab_size)
    if not ids.ndim or not ids.shape[-1]:
        raise ValueError(f"input_ids must have a position at least, found shape {ids.shape}")
    if ids.shape[-1] > config.max_length:
        raise ValueError(f"input_ids have {ids.shape[-1]} positions, the model {config.max_length}")
    mask = jnp.ones_like(ids) if attention_mask is None else _checked(attention_mask, "attention_mask", 2)
    num_types = max(config.type_vocab_size, 2)  # see `bert.Embeddings`
    types = jnp.zeros_like(ids) if token_type_ids is None else _checked(token_type_ids, "token_type_ids", num_types)
    if not ids.shape == mask.shape == types.shape:
        raise ValueError(f"input_ids {ids.shape}, attention_mask {mask.shape} and token_type_ids {types.shape} differ")
    return ids, mask.astype(bool), types


def _checked(values: Any, name: str, size: int) -> jax.Array:
    """The values as int32; ValueError unless they are integers from 0 to size − 1, as far as they are known."""
    is_known = not isinstance(values, jax.core.Tracer) and getattr(values, "is_fully_addressable", True)
    array = np.asarray(values) if is_known else values
    is_mask = name == "attention_mask"
    kinds = "biuf" if is_mask and is_known else "biu" if is_mask else "iu"
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"{name} must be {'bools or ' * is_mask}integers, found {array.dtype}")
    if is_known:
        outside = np.argwhere(~np.isin(array, (0, 1)) if is_mask else (array < 0) | (array >= size))
        if len(outside):
            place = tuple(outside[0].tolist())
            limits = "0 or 1" if is_mask else f"from 0 to {size - 1}, as the model's config says"
            raise ValueError(f"{name}{list(place)} must be {limits}, found {array[place]}")
    return jnp.asarray(array, jnp.int32)
