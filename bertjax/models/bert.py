"""BERT (Devlin et al., NAACL 2019) and its post-norm relatives as a Linen module of pure functions of its parameters.

What differs between the families is in `config`; see `bertjax.models.families`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models.blocks import LayerNorm, attention_weights, dense_layers, embedding_tables
from bertjax.models.config import ACTIVATIONS, BertConfig
from bertjax.models.dropout import dropout
from bertjax.models.encoder import Encoder


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, summed and layer-normalised."""

    config: BertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        embed = embedding_tables(config, config.embedding_size, self.dtype, self.param_dtype)
        self.word = embed(config.vocab_size)
        self.position = embed(config.max_position_embeddings)
        if config.type_vocab_size:
            self.token_type = embed(config.type_vocab_size)
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Ids of tokens and token types, int [..., S], to [..., S, E]."""
        words = self.word(input_ids)
        positions = self.position(position_ids(input_ids, self.config.position_padding_id))
        embeddings = words + jnp.broadcast_to(positions, words.shape)
        if self.config.type_vocab_size:
            # A model with a single token type uses it for both segments of a pair.
            embeddings += self.token_type(jnp.minimum(token_type_ids, self.config.type_vocab_size - 1))
        return self.norm(embeddings)


def position_ids(input_ids: jax.Array, padding_id: int | None) -> jax.Array:
    """Rows of the position table: [S] from 0, or [..., S] from `padding_id` + 1 that do not count that token."""
    if padding_id is None:
        return jnp.arange(input_ids.shape[-1])
    is_counted = (input_ids != padding_id).astype(jnp.int32)
    return padding_id + is_counted * jnp.cumsum(is_counted, axis=-1)


def relative_bucket(distance: np.ndarray) -> np.ndarray:
    """T5's bucket, 0 to 31, of key position minus query position (Raffel et al., 2020, as in MPNet).

    Each direction has 8 buckets of one distance, and 8 that grow with the logarithm up to a distance of 128.
    """
    near = np.abs(distance)
    far = np.log(np.maximum(near, 8).astype(np.float32) / np.float32(8)) / np.float32(np.log(128 / 8)) * np.float32(8)
    bucket = np.where(near < 8, near, np.minimum(8 + far.astype(np.int32), 15))
    return bucket + 16 * (distance > 0)


class Layer(nn.Module):
    """One post-norm Transformer encoder layer."""

    config: BertConfig
    first_site: int | jax.Array
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        dense = dense_layers(config, self.dtype, self.param_dtype)
        norm = partial(LayerNorm, config.layer_norm_eps, self.dtype, self.param_dtype)
        self.query, self.key, self.value = (dense(config.hidden_size) for _ in range(3))
        self.attention_output = dense(config.hidden_size)
        self.attention_norm = norm()
        self.intermediate = dense(config.intermediate_size)
        self.output = dense(config.hidden_size)
        self.output_norm = norm()

    def attend(
        self,
        queries: jax.Array,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        bias: jax.Array | None,
    ) -> jax.Array:
        """Multi-head attention of queries [..., Q, D] to hidden states [..., S, D] with mask [..., S]: [..., Q, D].

        The bias, [heads, S, S], is added to the scores.
        """
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        query, key, value = (
            project(y).reshape(*y.shape[:-1], heads, size)
            for project, y in ((self.query, queries), (self.key, hidden_states), (self.value, hidden_states))
        )
        query = query * jnp.asarray(size**-0.5, query.dtype)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
        if bias is not None:
            scores += jnp.broadcast_to(bias[:, : queries.shape[-2]], scores.shape)
        weights = attention_weights(scores, attention_mask, self.dtype)
        weights = dropout(weights, dropout_keys, self.first_site, self.config.attention_probs_dropout_prob)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        return self.attention_output(mixed.reshape(queries.shape))

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        bias: jax.Array | None = None,
        num_positions: int | None = None,
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., num_positions, D] for the first positions alone."""
        rate, attention_rate = self.config.hidden_dropout_prob, self.config.attention_output_dropout_prob
        queries = hidden_states[..., :num_positions, :]
        attended = self.attend(queries, hidden_states, attention_mask, dropout_keys, bias)
        attended = self.attention_norm(queries + dropout(attended, dropout_keys, self.first_site + 1, attention_rate))
        output = self.output(ACTIVATIONS[self.config.hidden_act](self.intermediate(attended)))
        return self.output_norm(attended + dropout(output, dropout_keys, self.first_site + 2, rate))


class Bert(Encoder):
    """A BERT encoder, or one of a post-norm relative; see `Encoder` for its attributes and functions."""

    def setup(self) -> None:  # noqa: D102
        super().setup()
        config = self.config
        self.embeddings = Embeddings(config, self.dtype, self.param_dtype)
        if config.embedding_size != config.hidden_size:
            self.projection = dense_layers(config, self.dtype, self.param_dtype)(config.hidden_size)
        if config.num_relative_buckets:
            shape = (config.num_relative_buckets, config.num_attention_heads)
            init = nn.initializers.normal(config.initializer_range)
            self.relative_bias = self.param("relative_bias", init, shape, self.param_dtype)
        self.layer = [self.make_layer(1 + self.dropouts * i) for i in range(config.num_hidden_layers)]

    def make_layer(self, site: int | jax.Array, **options: Any) -> Layer:  # noqa: D102
        return Layer(self.config, site, self.dtype, self.param_dtype, **options)

    def embed(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:  # noqa: D102
        return self.embeddings(input_ids, token_type_ids)

    def encode(  # noqa: D102
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None = None,
        num_positions: int | None = None,
    ) -> jax.Array:
        hidden_states = dropout(embeddings.astype(self.dtype), dropout_keys, 0, self.config.hidden_dropout_prob)
        if self.config.embedding_size != self.config.hidden_size:
            hidden_states = self.projection(hidden_states)
        *layers, last = self.layer
        inputs = attention_mask, dropout_keys, self._position_bias(embeddings.shape[-2])
        return last(self.run_layers(layers, hidden_states, *inputs), *inputs, num_positions)

    def _position_bias(self, length: int) -> jax.Array | None:
        """What relative positions add to the scores of every layer, float32 [heads, S, S]; None if they add nothing."""
        if not self.config.num_relative_buckets:
            return None
        positions = np.arange(length)
        buckets = relative_bucket(positions[None, :] - positions[:, None])
        return jnp.moveaxis(self.relative_bias.astype(jnp.float32)[buckets], -1, 0)
