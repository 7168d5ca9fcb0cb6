"""DeBERTa-v2 and -v3 (He et al., ICLR 2021 and 2023) as a Linen module of pure functions of its parameters.

A layer's scores add up to three products, all over sqrt(d * number of products): of queries and keys; of queries and
the relative positions of keys (c2p); of keys and the relative positions of queries (p2c). Relative positions are rows
of a table that all layers share.
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models.blocks import LayerNorm, attention_weights, dense_layers, embedding_tables
from bertjax.models.config import ACTIVATIONS
from bertjax.models.deberta_config import DebertaV2Config
from bertjax.models.dropout import dropout
from bertjax.models.encoder import Encoder


class Embeddings(nn.Module):
    """Word embeddings, with absolute positions and token types if the model has them; then a projection, LayerNorm."""

    config: DebertaV2Config
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        embed = embedding_tables(config, config.embedding_size, self.dtype, self.param_dtype)
        self.word = embed(config.vocab_size)
        if config.position_biased_input:
            self.position = embed(config.max_position_embeddings)
        if config.type_vocab_size:
            self.token_type = embed(config.type_vocab_size)
        if config.embedding_size != config.hidden_size:
            self.projection = dense_layers(config, self.dtype, self.param_dtype)(config.hidden_size, use_bias=False)
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Ids of tokens and token types, int [..., S], to [..., S, D]."""
        config = self.config
        embeddings = self.word(input_ids)
        if config.position_biased_input:
            positions = self.position(jnp.arange(input_ids.shape[-1]))
            embeddings += jnp.broadcast_to(positions, embeddings.shape)
        if config.type_vocab_size:
            # A model with a single token type uses it for both segments of a pair.
            embeddings += self.token_type(jnp.minimum(token_type_ids, config.type_vocab_size - 1))
        if config.embedding_size != config.hidden_size:
            embeddings = self.projection(embeddings)
        return self.norm(embeddings)


def log_bucket(distance: np.ndarray, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket, of the sign of its distance, of query position minus key position (He et al., 2021).

    Half of `num_buckets` have one distance each. The others grow with the logarithm up to `max_distance` - 1; beyond,
    buckets go on.

    Args:
      distance: int, any shape.
      num_buckets: Of each direction.
      max_distance: At least num_buckets // 2 + 2.
    """
    middle = num_buckets // 2
    # In float32, as checkpoints were trained: distances at the boundary of a bucket depend on rounding.
    far = np.maximum(np.abs(distance), middle).astype(np.float32) / np.float32(middle)
    share = np.log(far) / np.log(np.float32((max_distance - 1) / middle))
    bucket = middle + np.ceil(share * np.float32(middle - 1)).astype(np.int64)
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * bucket)


def position_rows(config: DebertaV2Config, length: int, num_queries: int) -> np.ndarray:
    """The table's row for each distance from 1 - S to Q - 1 of a query from a key, int [S + Q - 1], not decreasing."""
    distance = np.arange(1 - length, num_queries)
    if config.position_buckets > 0:
        distance = log_bucket(distance, config.position_buckets, config.max_distance)
    span = config.position_span
    return np.clip(distance + span, 0, 2 * span - 1)


def by_position(scores: jax.Array, num_columns: int) -> jax.Array:
    """Scores by distance as scores by position: out[..., r, c] = scores[..., r, c - r + R - 1].

    A gather would be the obvious way, but XLA scatters one by one in its backward pass on a CPU. Here each row's first
    element lies one place further left than in the row above once the rows are one element shorter.

    Args:
      scores: [..., R, C + R - 1].
      num_columns: C.

    Returns:
      [..., R, C].
    """
    *batch, rows, width = scores.shape
    padded = jnp.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, 1)])
    flat = padded.reshape(*batch, rows * (width + 1))[..., rows - 1 : rows - 1 + rows * width]
    return flat.reshape(*batch, rows, width)[..., :num_columns]


class RelativePositions(nn.Module):
    """The table of relative positions that all layers share, layer-normalised if the model does so."""

    config: DebertaV2Config
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        if config.relative_attention:
            init = nn.initializers.normal(config.initializer_range)
            self.table = nn.Embed(
                2 * config.position_span, config.hidden_size, param_dtype=self.param_dtype, embedding_init=init
            )
        if config.norm_rel_ebd == "layer_norm":
            self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, length: int) -> jax.Array | None:
        """The rows that texts of this length use, from the first to the last: [rows, D]; None if they use none."""
        config = self.config
        if self.is_initializing():  # checkpoints have both, used or not
            if config.relative_attention:
                self.table(jnp.zeros((), jnp.int32))
            if config.norm_rel_ebd == "layer_norm":
                self.norm(jnp.zeros((config.hidden_size,)))
        if not (config.relative_attention and config.pos_att_type):
            return None
        rows = position_rows(config, length, length)
        used = self.table.embedding[rows[0] : rows[-1] + 1]
        return self.norm(used) if config.norm_rel_ebd == "layer_norm" else used.astype(self.dtype)


class Layer(nn.Module):
    """One post-norm Transformer encoder layer with disentangled attention."""

    config: DebertaV2Config
    first_site: int | jax.Array
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        dense = dense_layers(config, self.dtype, self.param_dtype)
        norm = partial(LayerNorm, config.layer_norm_eps, self.dtype, self.param_dtype)
        self.query, self.key, self.value = (dense(config.hidden_size) for _ in range(3))
        if config.relative_attention and not config.share_att_key:
            if "c2p" in config.pos_att_type:
                self.position_key = dense(config.hidden_size)
            if "p2c" in config.pos_att_type:
                self.position_query = dense(config.hidden_size)
        self.attention_output = dense(config.hidden_size)
        self.attention_norm = norm()
        self.intermediate = dense(config.intermediate_size)
        self.output = dense(config.hidden_size)
        self.output_norm = norm()

    def _heads(self, states: jax.Array) -> jax.Array:
        heads = self.config.num_attention_heads
        return states.reshape(*states.shape[:-1], heads, self.config.hidden_size // heads)

    def attend(
        self,
        queries: jax.Array,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        positions: jax.Array | None,
    ) -> jax.Array:
        """Disentangled attention of queries [..., Q, D] to hidden states [..., S, D] with mask [..., S]: [..., Q, D].

        Positions are [rows, D], from `RelativePositions`, or None.
        """
        config = self.config
        query, key, value = (
            self._heads(project(states))
            for project, states in ((self.query, queries), (self.key, hidden_states), (self.value, hidden_states))
        )
        # Transformers counts the products even if it computes no relative positions.
        scale = (query.shape[-1] * (1 + len(set(config.pos_att_type)))) ** -0.5
        query = query * jnp.asarray(scale, query.dtype)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
        if positions is not None:
            scores += self._position_scores(query, key, scale, dropout_keys, positions)
        weights = attention_weights(scores, attention_mask, self.dtype)
        weights = dropout(weights, dropout_keys, self.first_site, config.attention_probs_dropout_prob)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        return self.attention_output(mixed.reshape(queries.shape))

    def _position_scores(
        self, query: jax.Array, key: jax.Array, scale: float, dropout_keys: jax.Array | None, positions: jax.Array
    ) -> jax.Array:
        """Scores of relative positions, float32 [..., heads, Q, S].

        The query, [..., Q, heads, d], is scaled, and the key, [..., S, heads, d], is not.
        """
        config = self.config
        length, num_queries = key.shape[-3], query.shape[-3]
        rows = position_rows(config, length, num_queries)
        rows = rows - rows[0]
        used = positions[: rows[-1] + 1]
        rate = config.hidden_dropout_prob
        if dropout_keys is not None and rate:
            used = jnp.broadcast_to(used, (*dropout_keys.shape, *used.shape))
            used = dropout(used, dropout_keys, self.first_site + 3, rate)

        def projected(project: nn.Dense) -> jax.Array:
            by_row = self._heads(project(used))
            # Rows that no distances share need no gather, whose backward pass is slow.
            return by_row if len(rows) == by_row.shape[-3] else jnp.take(by_row, rows, axis=-3)

        product = partial(jnp.einsum, "...qhd,...thd->...hqt", preferred_element_type=jnp.float32)
        scores = jnp.zeros((), jnp.float32)
        if "c2p" in config.pos_att_type:
            # By position of the key, so that distances decrease.
            position_key = jnp.flip(projected(self.key if config.share_att_key else self.position_key), axis=-3)
            scores += by_position(product(query, position_key), length)
        if "p2c" in config.pos_att_type:
            position_query = projected(self.query if config.share_att_key else self.position_query)
            position_query = position_query * jnp.asarray(scale, position_query.dtype)
            scores += jnp.swapaxes(by_position(product(key, position_query), num_queries), -1, -2)
        return scores

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        positions: jax.Array | None,
        num_positions: int | None = None,
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., num_positions, D] for the first positions alone."""
        rate = self.config.hidden_dropout_prob
        queries = hidden_states[..., :num_positions, :]
        attended = self.attend(queries, hidden_states, attention_mask, dropout_keys, positions)
        attended = self.attention_norm(queries + dropout(attended, dropout_keys, self.first_site + 1, rate))
        output = self.output(ACTIVATIONS[self.config.hidden_act](self.intermediate(attended)))
        return self.output_norm(attended + dropout(output, dropout_keys, self.first_site + 2, rate))


class Convolution(nn.Module):
    """A convolution of the embeddings over positions, added to the first layer's output and layer-normalised."""

    config: DebertaV2Config
    site: int
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        self.filter = nn.Conv(
            config.hidden_size,
            (config.conv_kernel_size,),
            padding=config.conv_kernel_size // 2,
            feature_group_count=config.conv_groups,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(config.initializer_range),
        )
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, embeddings: jax.Array, output: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Embeddings [..., S, D], zero on padding, and the first layer's output [..., Q, D], to [..., Q, D]."""
        convolved = dropout(self.filter(embeddings), dropout_keys, self.site, self.config.hidden_dropout_prob)
        convolved = ACTIVATIONS[self.config.conv_act](convolved)
        return self.norm(output + convolved[..., : output.shape[-2], :])


class Deberta(Encoder):
    """A DeBERTa-v2 encoder; see `Encoder` for its attributes and functions."""

    config: DebertaV2Config

    dropouts: ClassVar[int] = 4

    def setup(self) -> None:  # noqa: D102
        super().setup()
        config, num_layers = self.config, self.config.num_hidden_layers
        self.embeddings = Embeddings(config, self.dtype, self.param_dtype)
        self.relative_positions = RelativePositions(config, self.dtype, self.param_dtype)
        self.layer = [self.make_layer(1 + self.dropouts * i) for i in range(num_layers)]
        if config.conv_kernel_size:
            self.convolution = Convolution(config, self._head_site + 2, self.dtype, self.param_dtype)

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
        # Attention ignores padding anyway, but the convolution reads it.
        embeddings = embeddings.astype(self.dtype) * attention_mask[..., None].astype(self.dtype)
        embeddings = dropout(embeddings, dropout_keys, 0, self.config.hidden_dropout_prob)
        *layers, last = self.layer
        inputs = attention_mask, dropout_keys, self.relative_positions(embeddings.shape[-2])
        hidden_states = embeddings
        if self.config.conv_kernel_size:
            if not layers:
                return self.convolution(embeddings, last(embeddings, *inputs, num_positions), dropout_keys)
            first = self.run_layers(layers[:1], embeddings, *inputs)
            hidden_states = self.convolution(embeddings, first, dropout_keys)
            return last(self.run_layers(layers[1:], hidden_states, *inputs), *inputs, num_positions)
        return last(self.run_layers(layers, hidden_states, *inputs), *inputs, num_positions)
