"""The BERT family (Devlin et al., NAACL 2019) as a Linen module of pure functions of its parameters.

Every function takes one example or a batch: `...` below is empty or a batch dimension B. S is the sequence length,
D the hidden size. `embed` and `encode` are separate because SMART perturbs the embeddings in between. Softmax,
LayerNorm and logits are float32 for every compute dtype.
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
        """Ids of tokens and token types, int [..., S], to [..., S, D]."""
        words = self.word(input_ids)
        positions = self.position(jnp.arange(input_ids.shape[-1]))
        # A model with a single token type uses it for both segments of a pair.
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
        self, queries: jax.Array, hidden_states: jax.Array, attention_mask: jax.Array, dropout_keys: jax.Array | None
    ) -> jax.Array:
        """Multi-head attention of queries [..., Q, D] to hidden states [..., S, D] with mask [..., S]: [..., Q, D]."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        query, key, value = (
            project(y).reshape(*y.shape[:-1], heads, size)
            for project, y in ((self.query, queries), (self.key, hidden_states), (self.value, hidden_states))
        )
        query = query * jnp.asarray(size**-0.5, query.dtype)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
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
    ) -> jax.Array:
        """[..., S, D] to [..., S, D], or to [..., num_positions, D] for the first positions alone."""
        rate = self.config.hidden_dropout_prob
        queries = hidden_states[..., :num_positions, :]
        attended = self.attend(queries, hidden_states, attention_mask, dropout_keys)
        attended = self.attention_norm(queries + dropout(attended, dropout_keys, self.first_site + 1, rate))
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
            config.hidden_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(config.initializer_range),
        )
        self.norm = LayerNorm(config.layer_norm_eps, self.dtype, self.param_dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), self.param_dtype)

    def __call__(self, hidden_states: jax.Array, word_embeddings: jax.Array) -> jax.Array:
        """Hidden states [..., D] and word embeddings [V, D] to logits [..., V], float32."""
        x = self.norm(ACTIVATIONS[self.config.hidden_act](self.transform(hidden_states)))
        table = word_embeddings.astype(self.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)
        return logits + jnp.broadcast_to(self.bias.astype(jnp.float32), logits.shape)


class Bert(nn.Module):
    """A BERT encoder with a pooler and any number of named linear heads.

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
        """Embeddings [..., S, D] as SMART perturbs them: after LayerNorm, before dropout."""
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
          embeddings: [..., S, D], from `embed`.
          attention_mask: bool [..., S], False on padding.
          dropout_keys: Keys [...], one per example; None for a deterministic pass.
          num_positions: Compute the last layer for the first positions alone; None for all.

        Returns:
          [..., S, D] or [..., num_positions, D], in the compute dtype.
        """
        hidden_states = dropout(embeddings.astype(self.dtype), dropout_keys, 0, self.config.hidden_dropout_prob)
        *layers, last = self.layer
        if self.remat and layers and not self.is_initializing():
            hidden_states = self._recomputed(layers, hidden_states, attention_mask, dropout_keys)
        else:
            for layer in layers:
                hidden_states = layer(hidden_states, attention_mask, dropout_keys)
        return last(hidden_states, attention_mask, dropout_keys, num_positions)

    def _recomputed(
        self,
        layers: Sequence[Layer],
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """The layers as a loop: in straight-line code XLA schedules the recomputation too early."""

        @partial(jax.checkpoint, prevent_cse=False)
        def body(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[Any, None]:
            params, site = layer
            return self.make_layer(site, parent=None).apply({"params": params}, x, attention_mask, dropout_keys), None

        params = jax.tree.map(lambda *each: jnp.stack(each), *(layer.variables["params"] for layer in layers))
        return jax.lax.scan(body, hidden_states, (params, 1 + DROPOUTS * jnp.arange(len(layers))))[0]

    def pool(self, hidden_states: jax.Array) -> jax.Array:
        """Dense layer and tanh of the [CLS] state: [..., S, D] to [..., D]."""
        return jnp.tanh(self.pooler(hidden_states[..., 0, :]))

    def logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        head: str,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """A head's float32 outputs [..., C] from embeddings [..., S, D]; see `encode` for the arguments."""
        # The head reads [CLS] alone: without the last layer's other positions, six layers do a sixth less work.
        pooled = self.pool(self.encode(embeddings, attention_mask, dropout_keys, num_positions=1))
        return self.classify(pooled, head, dropout_keys)

    def classify(self, pooled: jax.Array, head: str, dropout_keys: jax.Array | None = None) -> jax.Array:
        """A head's float32 outputs [..., C] from pooled states [..., D]."""
        last_site = 1 + DROPOUTS * self.config.num_hidden_layers
        return self.head[head](dropout(pooled, dropout_keys, last_site, self.config.hidden_dropout_prob))

    def pretraining_logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of both pre-training heads, in one pass.

        Args:
          embeddings: [..., S, D], from `embed`.
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
      params: Parameters from `load_pretrained` or from training.
      config: Their architecture.
      input_ids: int [B, S] or [S].
      attention_mask: bool or int of the same shape, 0 on padding and else 1; None for all ones.
      token_type_ids: int of the same shape; None for all zeros. A model with a single type takes 1 for 0.

    Returns:
      Hidden states [B, S, D] and pooled output [B, D], both float32.

    Raises:
      ValueError: The shapes differ, S is 0 or exceeds the model's number of positions, or a value is out of range.
        Values are not checked under a transformation such as `jax.jit`.
    """
    ids = _checked(input_ids, "input_ids", config.vocab_size)
    if not ids.ndim or not ids.shape[-1]:
        raise ValueError(f"input_ids must have a position at least, found shape {ids.shape}")
    if ids.shape[-1] > config.max_position_embeddings:
        raise ValueError(f"input_ids have {ids.shape[-1]} positions, the model {config.max_position_embeddings}")
    mask = jnp.ones_like(ids) if attention_mask is None else _checked(attention_mask, "attention_mask", 2)
    num_types = max(config.type_vocab_size, 2)  # see `Embeddings`
    types = jnp.zeros_like(ids) if token_type_ids is None else _checked(token_type_ids, "token_type_ids", num_types)
    if not ids.shape == mask.shape == types.shape:
        raise ValueError(f"input_ids {ids.shape}, attention_mask {mask.shape} and token_type_ids {types.shape} differ")
    return _encode(params, config, ids, mask.astype(bool), types)


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
