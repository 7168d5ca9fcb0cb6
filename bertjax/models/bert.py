"""The BERT family (Devlin et al., NAACL 2019) as a Linen module of pure functions of its parameters.

Every function takes one example or a batch: `...` below is either nothing or a batch dimension B. S is the
sequence length, D the hidden size. `embed` and `encode` are apart because SMART perturbs what lies between
them. Softmax, LayerNorm and logits are float32 whatever the compute dtype.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.models.config import ACTIVATIONS, BertConfig
from bertjax.models.dropout import dropout

DROPOUTS = 3
"""Of a layer."""


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, summed and layer-normalised."""

    config: BertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        embed = partial(
            nn.Embed,
            features=config.hidden_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            embedding_init=nn.initializers.normal(config.initializer_range),
        )
        self.word = embed(config.vocab_size)
        self.position = embed(config.max_position_embeddings)
        self.token_type = embed(config.type_vocab_size)
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Int [..., S] twice to [..., S, D]."""
        words = self.word(input_ids)
        positions = self.position(jnp.arange(input_ids.shape[-1]))
        # A model with a single token type gives it to both segments of a pair.
        types = self.token_type(jnp.minimum(token_type_ids, self.config.type_vocab_size - 1))
        return self.norm(words + jnp.broadcast_to(positions, words.shape) + types)


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

    Flax's own multiplies its reciprocal deviations by the scale first, an array [..., D] more: 5% of a SMART update.
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
        # Two passes: the mean of squares less the square of the mean cancels at BERT's eps of 1e-12.
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

    def attend(self, queries: jax.Array, x: jax.Array, attention_mask: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Multi-head attention of queries [..., Q, D] to x [..., S, D] with its mask [..., S], to [..., Q, D]."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        query, key, value = (
            project(y).reshape(*y.shape[:-1], heads, size)
            for project, y in ((self.query, queries), (self.key, x), (self.value, x))
        )
        query = query * jnp.asarray(size**-0.5, query.dtype)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
        # Finite, so that a row without a real token gives numbers and not NaN.
        scores = jnp.where(attention_mask[..., None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = dropout(weights, keys, self.first_site, self.config.attention_probs_dropout_prob)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        return self.attention_output(mixed.reshape(queries.shape))

    def __call__(
        self, x: jax.Array, attention_mask: jax.Array, keys: jax.Array | None, first: int | None = None
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., `first`, D], of the first positions alone."""
        rate = self.config.hidden_dropout_prob
        queries = x[..., :first, :]
        attended = self.attend(queries, x, attention_mask, keys)
        x = self.attention_norm(queries + dropout(attended, keys, self.first_site + 1, rate))
        y = self.output(ACTIVATIONS[self.config.hidden_act](self.intermediate(x)))
        return self.output_norm(x + dropout(y, keys, self.first_site + 2, rate))


class MlmHead(nn.Module):
    """The head of masked-language modelling, whose decoder is the table of word embeddings (Devlin et al., 2019)."""

    config: BertConfig
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:  # noqa: D102
        config = self.config
        self.transform = nn.Dense(
            config.hidden_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(config.initializer_range),
        )
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), self.param_dtype)

    def __call__(self, hidden: jax.Array, table: jax.Array) -> jax.Array:
        """Hidden states [..., D] and word embeddings [V, D] to logits [..., V], float32."""
        x = self.norm(ACTIVATIONS[self.config.hidden_act](self.transform(hidden)))
        logits = jnp.einsum("...d,vd->...v", x, table.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits + jnp.broadcast_to(self.bias.astype(jnp.float32), logits.shape)


class Bert(nn.Module):
    """A BERT encoder with a pooler and any number of named linear heads.

    Attributes:
      config: the architecture.
      heads: outputs of each head by its name: classes, or 1 for a score.
      dtype: compute dtype.
      param_dtype: dtype in which new parameters are made.
      has_mlm: whether there is a head of masked-language modelling, for further pre-training.
      remat: whether a backward pass computes the layers again, and a forward pass so keeps their inputs alone.
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
        """A layer, by the number of its first dropout."""
        return Layer(self.config, first_site, self.dtype, self.param_dtype, **options)

    def embed(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Embeddings after their LayerNorm and before dropout: int [..., S] twice to [..., S, D].

        This is the one site that SMART perturbs.
        """
        return self.embeddings(input_ids, token_type_ids)

    def encode(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        keys: jax.Array | None = None,
        first: int | None = None,
    ) -> jax.Array:
        """Hidden states of the last layer.

        Args:
          embeddings: [..., S, D], from `embed`.
          attention_mask: bool [..., S], False on padding.
          keys: dropout keys [...], one an example; None for a deterministic pass.
          first: of how many positions, from the first; None for all. Only the last layer's work depends on it.

        Returns:
          [..., S, D], or [..., first, D], in the compute dtype.
        """
        x = dropout(embeddings.astype(self.dtype), keys, 0, self.config.hidden_dropout_prob)
        *layers, last = self.layer
        if self.remat and layers and not self.is_initializing():
            x = self._recomputed(layers, x, attention_mask, keys)
        else:
            for layer in layers:
                x = layer(x, attention_mask, keys)
        return last(x, attention_mask, keys, first)

    def _recomputed(
        self, layers: Sequence[Layer], x: jax.Array, attention_mask: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Layers one after another, as a loop: out of straight-line code XLA schedules the recomputation too early."""

        @partial(jax.checkpoint, prevent_cse=False)
        def body(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[Any, None]:
            params, site = layer
            return self.make_layer(site, parent=None).apply({"params": params}, x, attention_mask, keys), None

        params = jax.tree.map(lambda *each: jnp.stack(each), *(layer.variables["params"] for layer in layers))
        return jax.lax.scan(body, x, (params, 1 + DROPOUTS * jnp.arange(len(layers))))[0]

    def pool(self, hidden: jax.Array) -> jax.Array:
        """The [CLS] state through a dense layer and tanh: [..., S, D] to [..., D]."""
        return jnp.tanh(self.pooler(hidden[..., 0, :]))

    def logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        head: str,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """A head's float32 outputs [..., C] from embeddings [..., S, D]; arguments as in `encode`."""
        # Of [CLS] alone: a sixth of six layers' work is otherwise done for positions that nobody reads.
        return self.classify(self.pool(self.encode(embeddings, attention_mask, keys, first=1)), head, keys)

    def classify(self, pooled: jax.Array, head: str, keys: jax.Array | None = None) -> jax.Array:
        """A head's float32 outputs [..., C] from pooled states [..., D]."""
        last_site = 1 + DROPOUTS * self.config.num_hidden_layers
        return self.head[head](dropout(pooled, keys, last_site, self.config.hidden_dropout_prob))

    def pretraining_logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs of both pre-training heads, in one pass.

        Args:
          embeddings: [..., S, D], from `embed`.
          attention_mask: bool [..., S].
          masked_positions: int [..., P], where to predict words: the rest of the S × V logits is never computed.
          keys: dropout keys as in `encode`; these heads have none of their own.

        Returns:
          Float32 logits over the vocabulary [..., P, V], and those of the head "nsp" [..., 2]: 0 for a second text that
          follows the first, 1 for one that does not.
        """
        hidden = self.encode(embeddings, attention_mask, keys)
        masked = jnp.take_along_axis(hidden, masked_positions[..., None], axis=-2)
        return self.mlm(masked, self.embeddings.word.embedding), self.head["nsp"](self.pool(hidden))

    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array, token_type_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states [..., S, D] and pooled output [..., D], deterministic; also makes every parameter."""
        embeddings = self.embed(input_ids, token_type_ids)
        hidden = self.encode(embeddings, attention_mask)
        if self.is_initializing():
            for name in self.heads:
                self.logits(embeddings, attention_mask, name)
            if self.has_mlm:
                self.mlm(hidden, self.embeddings.word.embedding)
        return hidden, self.pool(hidden)


def init_params(key: jax.Array, model: Bert) -> Any:
    """A fresh parameter tree for `model`, heads included."""
    ids = jnp.zeros((1,), jnp.int32)
    return jax.jit(model.init)(key, ids, jnp.ones((1,), bool), ids)["params"]


@partial(jax.jit, static_argnames="config")
def _encode(params: Any, config: BertConfig, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    outputs: Any = Bert(config).apply({"params": params}, *inputs)
    return outputs


def encode(
    params: Any,
    config: BertConfig,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs a pre-trained BERT as a plain encoder, in float32, without dropout.

    Args:
      params: parameters from `load_pretrained` or from training.
      config: their architecture.
      input_ids: int [B, S] or [S].
      attention_mask: bool or int of the same shape, 0 on padding; all ones where None.
      token_type_ids: int of the same shape; all zeros where None.

    Returns:
      Hidden states [B, S, D] and pooled output [B, D], both float32.

    Raises:
      ValueError: S exceeds the model's positions, or the shapes differ.
    """
    input_ids = jnp.asarray(input_ids, jnp.int32)
    if input_ids.shape[-1] > config.max_position_embeddings:
        raise ValueError(f"input_ids have {input_ids.shape[-1]} positions, the model {config.max_position_embeddings}")
    mask = jnp.ones_like(input_ids) if attention_mask is None else jnp.asarray(attention_mask)
    mask = mask.astype(bool)
    types = jnp.zeros_like(input_ids) if token_type_ids is None else jnp.asarray(token_type_ids, jnp.int32)
    if not input_ids.shape == mask.shape == types.shape:
        raise ValueError(
            f"input_ids {input_ids.shape}, attention_mask {mask.shape} and token_type_ids {types.shape} differ"
        )
    return _encode(params, config, input_ids, mask, types)
