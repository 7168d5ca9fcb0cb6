"""BERT (Devlin et al., NAACL 2019) and its post-norm relatives as a Linen module of pure functions of its parameters.

Every function takes one example or a batch: `...` below is empty or a batch dimension B. S is the sequence length,
D the hidden size, E the size of the embeddings: D, except in ELECTRA. `embed` and `encode` are separate because SMART
perturbs the embeddings in between. Softmax, LayerNorm and logits are float32 for every compute dtype.

What differs between the families is in `config`; see `bertjax.models.families`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models.config import ACTIVATIONS, BertConfig
from bertjax.models.dropout import dropout

DROPOUTS = 3
"""Number of dropout sites in a layer."""


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, summed and layer-normalised."""

    config: BertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        embed = partial(
            nn.Embed,
            features=config.embedding_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            embedding_init=nn.initializers.normal(config.initializer_range),
        )
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


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32, returned in `dtype`."""

    eps: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        return Normalize(self.eps, self.param_dtype, name="affine")(x.astype(jnp.float32)).astype(self.dtype)


class Normalize(nn.Module):
    """Layer normalisation in float32, with scale and bias.

    Flax's LayerNorm first multiplies the reciprocal deviation by the scale: one more array [..., D], which costs 5% of
    a SMART update.
    """

    eps: float
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 [..., D] to the same."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        scale, bias = (jnp.broadcast_to(y.astype(jnp.float32), x.shape) for y in (scale, bias))
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        # Two passes: E[x²] − E[x]² cancels at BERT's eps of 1e-12.
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * scale + bias


class Layer(nn.Module):
    """One post-norm Transformer encoder layer."""

    config: BertConfig
    first_site: int | jax.Array
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        dense = partial(
            nn.Dense,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(config.initializer_range),
        )
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
        # Finite, so that a row without a real token does not become NaN.
        scores = jnp.where(attention_mask[..., None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = dropout(weights, dropout_keys, self.first_site, self.config.attention_probs_dropout_prob)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        return self.attention_output(mixed.reshape(queries.shape))

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        num_positions: int | None = None,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., num_positions, D] for the first positions alone."""
        rate, attention_rate = self.config.hidden_dropout_prob, self.config.attention_output_dropout_prob
        queries = hidden_states[..., :num_positions, :]
        attended = self.attend(queries, hidden_states, attention_mask, dropout_keys, bias)
        attended = self.attention_norm(queries + dropout(attended, dropout_keys, self.first_site + 1, attention_rate))
        output = self.output(ACTIVATIONS[self.config.hidden_act](self.intermediate(attended)))
        return self.output_norm(attended + dropout(output, dropout_keys, self.first_site + 2, rate))


class MlmHead(nn.Module):
    """The masked-language-modelling head; it decodes with the word embeddings (Devlin et al., 2019)."""

    config: BertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        self.transform = nn.Dense(
            config.embedding_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(config.initializer_range),
        )
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), self.param_dtype)

    def __call__(self, hidden_states: jax.Array, word_embeddings: jax.Array) -> jax.Array:
        """Hidden states [..., D] and word embeddings [V, E] to logits [..., V], float32."""
        x = self.norm(ACTIVATIONS[self.config.mlm_act](self.transform(hidden_states)))
        table = word_embeddings.astype(self.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)
        return logits + jnp.broadcast_to(self.bias.astype(jnp.float32), logits.shape)


class Bert(nn.Module):
    """A BERT encoder, or one of a post-norm relative, with a pooler and any number of named linear heads.

    Attributes:
      config: The architecture.
      heads: Number of outputs of each head by name: classes, or 1 for a score.
      dtype: Compute dtype.
      param_dtype: Dtype of new parameters.
      has_mlm: Whether there is a masked-language-modelling head, for further pre-training.
      remat: Whether the backward pass recomputes the layers, so that the forward pass keeps only their inputs.
    """

    config: BertConfig
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    has_mlm: bool = False
    remat: bool = False

    def setup(self) -> None:  # noqa: D102
        config = self.config
        kernel_init = nn.initializers.normal(config.initializer_range)
        self.embeddings = Embeddings(config, self.dtype, self.param_dtype)
        if config.embedding_size != config.hidden_size:
            self.projection = nn.Dense(
                config.hidden_size, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=kernel_init
            )
        if config.num_relative_buckets:
            shape = (config.num_relative_buckets, config.num_attention_heads)
            self.relative_bias = self.param("relative_bias", kernel_init, shape, self.param_dtype)
        self.layer = [self.make_layer(1 + DROPOUTS * i) for i in range(config.num_hidden_layers)]
        self.pooler = nn.Dense(
            config.hidden_size, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=kernel_init
        )
        self.head = {
            name: nn.Dense(outputs, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=kernel_init)
            for name, outputs in self.heads.items()
        }
        if self.has_mlm:
            self.mlm = MlmHead(config, self.dtype, self.param_dtype)

    def make_layer(self, first_site: int | jax.Array, **options: Any) -> Layer:
        """A layer whose dropout sites start at this number."""
        return Layer(self.config, first_site, self.dtype, self.param_dtype, **options)

    def embed(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Embeddings [..., S, E] as SMART perturbs them: after LayerNorm, before dropout and any projection to D."""
        return self.embeddings(input_ids, token_type_ids)

    def encode(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None = None,
        num_positions: int | None = None,
    ) -> jax.Array:
        """Hidden states of the last layer.

        Args:
          embeddings: [..., S, E], from `embed`.
          attention_mask: bool [..., S], False on padding.
          dropout_keys: Keys [...], one per example; None for a deterministic pass.
          num_positions: Compute the last layer for the first positions alone; None for all.

        Returns:
          [..., S, D] or [..., num_positions, D], in the compute dtype.
        """
        hidden_states = dropout(embeddings.astype(self.dtype), dropout_keys, 0, self.config.hidden_dropout_prob)
        if self.config.embedding_size != self.config.hidden_size:
            hidden_states = self.projection(hidden_states)
        bias = self._position_bias(embeddings.shape[-2])
        *layers, last = self.layer
        if self.remat and layers and not self.is_initializing():
            hidden_states = self._recomputed(layers, hidden_states, attention_mask, dropout_keys, bias)
        else:
            for layer in layers:
                hidden_states = layer(hidden_states, attention_mask, dropout_keys, bias=bias)
        return last(hidden_states, attention_mask, dropout_keys, num_positions, bias)

    def _position_bias(self, length: int) -> jax.Array | None:
        """What relative positions add to the scores of every layer, float32 [heads, S, S]; None if they add nothing."""
        if not self.config.num_relative_buckets:
            return None
        positions = np.arange(length)
        buckets = relative_bucket(positions[None, :] - positions[:, None])
        return jnp.moveaxis(self.relative_bias.astype(jnp.float32)[buckets], -1, 0)

    def _recomputed(
        self,
        layers: Sequence[Layer],
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
        bias: jax.Array | None,
    ) -> jax.Array:
        """The layers as a loop: in straight-line code XLA schedules the recomputation too early."""

        @partial(jax.checkpoint, prevent_cse=False)
        def body(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[Any, None]:
            params, site = layer
            inputs = (x, attention_mask, dropout_keys, None, bias)
            return self.make_layer(site, parent=None).apply({"params": params}, *inputs), None

        params = jax.tree.map(lambda *each: jnp.stack(each), *(layer.variables["params"] for layer in layers))
        return jax.lax.scan(body, hidden_states, (params, 1 + DROPOUTS * jnp.arange(len(layers))))[0]

    def pool(self, hidden_states: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Dense layer and activation of the [CLS] state: [..., S, D] to [..., D]; see `encode` for the keys."""
        first = hidden_states[..., 0, :]
        if self.config.has_pooler_dropout:
            first = dropout(first, dropout_keys, self._head_site + 1, self.config.classifier_dropout_prob)
        return ACTIVATIONS[self.config.pooler_act](self.pooler(first))

    def logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        head: str,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """A head's float32 outputs [..., C] from embeddings [..., S, E]; see `encode` for the arguments."""
        # The head reads [CLS] alone: without the last layer's other positions, six layers do a sixth less work.
        pooled = self.pool(self.encode(embeddings, attention_mask, dropout_keys, num_positions=1), dropout_keys)
        return self.classify(pooled, head, dropout_keys)

    def classify(self, pooled: jax.Array, head: str, dropout_keys: jax.Array | None = None) -> jax.Array:
        """A head's float32 outputs [..., C] from pooled states [..., D]."""
        return self.head[head](dropout(pooled, dropout_keys, self._head_site, self.config.classifier_dropout_prob))

    @property
    def _head_site(self) -> int:
        return 1 + DROPOUTS * self.config.num_hidden_layers

    def pretraining_logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of both pre-training heads, in one pass.

        Args:
          embeddings: [..., S, E], from `embed`.
          attention_mask: bool [..., S].
          masked_positions: int [..., P], the positions whose words are predicted.
          dropout_keys: See `encode`; the heads have no dropout.

        Returns:
          float32 logits over the vocabulary [..., P, V], and of the head "nsp" [..., 2]: class 0 if the second text
          follows the first, else 1.
        """
        hidden_states = self.encode(embeddings, attention_mask, dropout_keys)
        masked = jnp.take_along_axis(hidden_states, masked_positions[..., None], axis=-2)
        return self.mlm(masked, self.embeddings.word.embedding), self.head["nsp"](self.pool(hidden_states))

    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array, token_type_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states [..., S, D] and pooled output [..., D], without dropout; also initialises every parameter."""
        embeddings = self.embed(input_ids, token_type_ids)
        hidden_states = self.encode(embeddings, attention_mask)
        if self.is_initializing():
            for name in self.heads:
                self.logits(embeddings, attention_mask, name)
            if self.has_mlm:
                self.mlm(hidden_states, self.embeddings.word.embedding)
        return hidden_states, self.pool(hidden_states)


def init_params(key: jax.Array, model: Bert) -> Any:
    """New parameters for `model`, heads included."""
    ids = jnp.zeros((1,), jnp.int32)
    return jax.jit(model.init)(key, ids, jnp.ones((1,), bool), ids)["params"]
