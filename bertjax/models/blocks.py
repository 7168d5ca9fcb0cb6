"""Layers that the architectures share. Softmax, LayerNorm and logits are float32 for every compute dtype."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.models.config import ACTIVATIONS, BertConfig


def dense_layers(config: BertConfig, dtype: Any, param_dtype: Any) -> Callable[..., nn.Dense]:
    """Makes dense layers with the architecture's initial kernels, N(0, initializer_range²)."""
    kernel_init = nn.initializers.normal(config.initializer_range)
    return partial(nn.Dense, dtype=dtype, param_dtype=param_dtype, kernel_init=kernel_init)


def embedding_tables(config: BertConfig, size: int, dtype: Any, param_dtype: Any) -> Callable[..., nn.Embed]:
    """Makes tables of embeddings of this size, with the architecture's initial values, N(0, initializer_range²)."""
    init = nn.initializers.normal(config.initializer_range)
    return partial(nn.Embed, features=size, dtype=dtype, param_dtype=param_dtype, embedding_init=init)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32, returned in `dtype`."""

    eps: float
    dtype: Any
    param_dtype: Any
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        normalize = Normalize(self.eps, self.param_dtype, self.use_bias, name="affine")
        return normalize(x.astype(jnp.float32)).astype(self.dtype)


class Normalize(nn.Module):
    """Layer normalisation in float32, with scale and, by default, bias.

    Flax's LayerNorm first multiplies the reciprocal deviation by the scale: one more array [..., D], which costs 5% of
    a SMART update.
    """

    eps: float
    param_dtype: Any
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 [..., D] to the same."""

        def param(name: str, init: Any) -> jax.Array:
            value = self.param(name, init, x.shape[-1:], self.param_dtype)
            return jnp.broadcast_to(value.astype(jnp.float32), x.shape)

        scale = param("scale", nn.initializers.ones)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        # Two passes: E[x²] − E[x]² cancels at BERT's eps of 1e-12.
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(variance + self.eps) * scale
        return scaled + param("bias", nn.initializers.zeros) if self.use_bias else scaled


def attention_weights(scores: jax.Array, attention_mask: jax.Array, dtype: Any) -> jax.Array:
    """Softmax over the attended keys, computed in float32, returned in `dtype`.

    Args:
      scores: float32 [..., heads, Q, S].
      attention_mask: bool [..., S], False on padding; or [..., Q, S].
      dtype: Of the result, of the shape of `scores`.
    """
    is_per_query = attention_mask.ndim == scores.ndim - 1
    attended = attention_mask[..., None, :, :] if is_per_query else attention_mask[..., None, None, :]
    # Finite, so that a row without a real token does not become NaN.
    return jax.nn.softmax(jnp.where(attended, scores, jnp.finfo(jnp.float32).min), axis=-1).astype(dtype)


class Pooler(nn.Dense):
    """A dense layer with an activation."""

    act: str = "tanh"

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., features]."""
        return ACTIVATIONS[self.act](super().__call__(x))


class MlmHead(nn.Module):
    """The masked-language-modelling head; it decodes with the word embeddings (Devlin et al., 2019)."""

    config: BertConfig
    dtype: Any
    param_dtype: Any
    transform_bias: bool = True
    norm_bias: bool = True
    decoder_bias: bool = True

    def setup(self) -> None:  # noqa: D102
        config = self.config
        dense = dense_layers(config, self.dtype, self.param_dtype)
        self.transform = dense(config.embedding_size, use_bias=self.transform_bias)
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype, self.norm_bias)
        if self.decoder_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), self.param_dtype)

    def __call__(self, hidden_states: jax.Array, word_embeddings: jax.Array) -> jax.Array:
        """Hidden states [..., D] and word embeddings [V, E] to logits [..., V], float32."""
        x = self.norm(ACTIVATIONS[self.config.mlm_act](self.transform(hidden_states)))
        table = word_embeddings.astype(self.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)
        if not self.decoder_bias:
            return logits
        return logits + jnp.broadcast_to(self.bias.astype(jnp.float32), logits.shape)
