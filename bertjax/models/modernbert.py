"""ModernBERT (Warner et al., 2024) as a Linen module of pure functions of its parameters.

Layers are pre-norm, positions rotary (Su et al., 2021), MLPs gated (GeGLU; Shazeer, 2020), and most layers attend to a
window around each token. What `config.json` switches is in `ModernBertConfig`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models.blocks import LayerNorm, MlmHead, attention_weights, dense_layers, embedding_tables
from bertjax.models.config import ACTIVATIONS
from bertjax.models.dropout import dropout
from bertjax.models.encoder import Encoder
from bertjax.models.modernbert_config import ModernBertConfig


def rotary_table(length: int, size: int, theta: float) -> np.ndarray:
    """Cosines and sines of positions times frequencies, float32 [2, length, size // 2].

    Frequency i is theta^(-2i / size), rounded as in Transformers: at position 8,000 the last bit of a frequency is half
    a thousandth of a radian.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)])


def rotate(x: jax.Array, table: jax.Array) -> jax.Array:
    """Rotates the pairs (i, i + size // 2) of [..., S, heads, size] by a table [2, S, size // 2], in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = (jnp.broadcast_to(y[:, None, :], first.shape) for y in table)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Embeddings(nn.Module):
    """Layer-normalised word embeddings."""

    config: ModernBertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        self.word = embedding_tables(config, config.hidden_size, self.dtype, self.param_dtype)(config.vocab_size)
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype, config.norm_bias)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """Ids of tokens, int [..., S], to [..., S, D]."""
        return self.norm(self.word(input_ids))


class QueryKeyValue(nn.Module):
    """The projections to queries, keys and values, side by side in one kernel [D, 3 D]."""

    config: ModernBertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        size, init = self.config.hidden_size, nn.initializers.normal(self.config.initializer_range)
        self.kernel = self.param("kernel", init, (size, 3 * size), self.param_dtype)
        if self.config.attention_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (3 * size,), self.param_dtype)

    def __call__(self, hidden_states: jax.Array, num_positions: int | None) -> list[jax.Array]:
        """[..., S, D] to queries [..., num_positions, D], and keys and values [..., S, D]."""
        size = self.config.hidden_size
        if num_positions is None:
            return jnp.split(self._project(hidden_states, slice(None)), 3, axis=-1)
        queries = self._project(hidden_states[..., :num_positions, :], slice(size))
        return [queries, *jnp.split(self._project(hidden_states, slice(size, None)), 2, axis=-1)]

    def _project(self, x: jax.Array, columns: slice) -> jax.Array:
        projected = jnp.dot(x.astype(self.dtype), self.kernel[:, columns].astype(self.dtype))
        if not self.config.attention_bias:
            return projected
        return projected + jnp.broadcast_to(self.bias[columns].astype(self.dtype), projected.shape)


class Layer(nn.Module):
    """One pre-norm layer with rotary attention, to all tokens or to those near, and a gated MLP."""

    config: ModernBertConfig
    first_site: int | jax.Array
    is_global: bool | jax.Array
    dtype: Any
    param_dtype: Any
    has_attention_norm: bool = True

    def setup(self) -> None:  # noqa: D102
        config = self.config
        dense = dense_layers(config, self.dtype, self.param_dtype)
        norm = partial(LayerNorm, config.layer_norm_eps, self.dtype, self.param_dtype, config.norm_bias)
        if self.has_attention_norm:
            self.attention_norm = norm()
        self.qkv = QueryKeyValue(config, self.dtype, self.param_dtype)
        self.attention_output = dense(config.hidden_size, use_bias=config.attention_bias)
        self.mlp_norm = norm()
        self.intermediate = dense(2 * config.intermediate_size, use_bias=config.mlp_bias)
        self.output = dense(config.hidden_size, use_bias=config.mlp_bias)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        num_positions: int | None = None,
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., num_positions, D] for the first positions alone."""
        config = self.config
        normed = self.attention_norm(hidden_states) if self.has_attention_norm else hidden_states
        attended = self.attend(normed, attention_mask, dropout_keys, num_positions)
        attended = dropout(attended, dropout_keys, self.first_site + 1, config.attention_probs_dropout_prob)
        hidden_states = hidden_states[..., :num_positions, :] + attended
        activated, gate = jnp.split(self.intermediate(self.mlp_norm(hidden_states)), 2, axis=-1)
        gated = ACTIVATIONS[config.hidden_act](activated) * gate
        return hidden_states + self.output(dropout(gated, dropout_keys, self.first_site + 2, config.mlp_dropout))

    def attend(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        num_positions: int | None,
    ) -> jax.Array:
        """Multi-head attention of the first positions of [..., S, D] to all, with mask [..., S]: [..., Q, D]."""
        config = self.config
        size = config.hidden_size // config.num_attention_heads
        query, key, value = (
            x.reshape(*x.shape[:-1], config.num_attention_heads, size) for x in self.qkv(hidden_states, num_positions)
        )
        table = self._rotary_table(hidden_states.shape[-2], size)
        query = rotate(query, table[:, : query.shape[-3]] * size**-0.5)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, rotate(key, table), preferred_element_type=jnp.float32)
        weights = attention_weights(scores, self._visible(attention_mask, query.shape[-3]), self.dtype)
        weights = dropout(weights, dropout_keys, self.first_site, config.attention_probs_dropout_prob)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        return self.attention_output(mixed.reshape(*mixed.shape[:-2], config.hidden_size))

    def _rotary_table(self, length: int, size: int) -> jax.Array:
        far, near = (
            rotary_table(length, size, theta) for theta in (self.config.global_rope_theta, self.config.local_rope_theta)
        )
        return jnp.where(self.is_global, far, near)

    def _visible(self, attention_mask: jax.Array, num_queries: int) -> jax.Array:
        """Which keys a query sees: bool [..., S], or [..., Q, S] where it depends on the query."""
        length, reach = attention_mask.shape[-1], self.config.local_attention // 2
        if self.is_global is True or length <= reach + 1:
            return attention_mask
        positions = jnp.arange(length)
        is_near = jnp.abs(positions[:num_queries, None] - positions[None, :]) <= reach
        seen = is_near | jnp.broadcast_to(self.is_global, is_near.shape)
        mask = attention_mask[..., None, :]
        shape = (*attention_mask.shape[:-1], *seen.shape)
        return jnp.broadcast_to(mask, shape) & jnp.broadcast_to(seen, shape)


class Head(nn.Module):
    """What maps the state of a text to what a sentence head reads: a dense layer, an activation and a LayerNorm."""

    config: ModernBertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        self.dense = dense_layers(config, self.dtype, self.param_dtype)(
            config.hidden_size, use_bias=config.classifier_bias
        )
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype, config.norm_bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        return self.norm(ACTIVATIONS[self.config.classifier_activation](self.dense(x)))


class ModernBert(Encoder):
    """A ModernBERT encoder; see `Encoder` for its attributes and functions. Token types are ignored."""

    config: ModernBertConfig

    def setup(self) -> None:  # noqa: D102
        super().setup()
        config = self.config
        self.embeddings = Embeddings(config, self.dtype, self.param_dtype)
        # The embeddings end with a LayerNorm, so the first layer needs none.
        self.layer = [
            self.make_layer(1 + self.dropouts * i, has_attention_norm=i > 0) for i in range(config.num_hidden_layers)
        ]
        self.final_norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype, config.norm_bias)

    def make_layer(self, site: int | jax.Array, **options: Any) -> Layer:  # noqa: D102
        number, are_global = (site - 1) // self.dropouts, self.config.are_global
        # In the loop of `remat`, the layer's number is data.
        is_global = are_global[number] if isinstance(number, int) else jnp.array(are_global)[number]
        return Layer(self.config, site, is_global, self.dtype, self.param_dtype, **options)

    def make_pooler(self) -> Head:  # noqa: D102
        return Head(self.config, self.dtype, self.param_dtype)

    def make_mlm_head(self) -> MlmHead:  # noqa: D102
        config = self.config
        return MlmHead(
            config,
            self.dtype,
            self.param_dtype,
            transform_bias=config.classifier_bias,
            norm_bias=config.norm_bias,
            decoder_bias=config.decoder_bias,
        )

    def embed(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:  # noqa: D102
        return self.embeddings(input_ids)

    def encode(  # noqa: D102
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None = None,
        num_positions: int | None = None,
    ) -> jax.Array:
        hidden_states = dropout(embeddings.astype(self.dtype), dropout_keys, 0, self.config.hidden_dropout_prob)
        inputs = attention_mask, dropout_keys
        *layers, last = self.layer
        if layers:  # the first differs from the others, so it cannot join their loop
            hidden_states = self.run_layers(layers[1:], layers[0](hidden_states, *inputs), *inputs)
        return self.final_norm(last(hidden_states, *inputs, num_positions))
