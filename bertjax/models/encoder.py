"""What every encoder shares: the split at its embeddings, the pooler, and the heads.

Every function takes one example or a batch: `...` below is empty or a batch dimension B. S is the sequence length,
D the hidden size, E the size of the embeddings. `embed` and `encode` are separate because SMART perturbs the
embeddings in between.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.models.blocks import MlmHead, Pooler
from bertjax.models.config import BertConfig
from bertjax.models.dropout import dropout


class Encoder(nn.Module):
    """An encoder with a pooler and any number of named linear heads.

    An architecture implements `embed`, `encode` and `make_layer`. Its `setup` calls this class's and sets `embeddings`,
    whose `word` is the table of word embeddings, and `layer`, the list of layers.

    Attributes:
      config: The architecture.
      heads: Number of outputs of each head by name: classes, or 1 for a score.
      dtype: Compute dtype.
      param_dtype: Dtype of new parameters.
      has_mlm: Whether there is a masked-language-modelling head, for further pre-training.
      remat: Whether the backward pass recomputes the layers, so that the forward pass keeps only their inputs.
      dropouts: Number of dropout sites in a layer.
    """

    config: BertConfig
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    has_mlm: bool = False
    remat: bool = False

    dropouts: ClassVar[int] = 3

    def setup(self) -> None:  # noqa: D102
        kernel_init = nn.initializers.normal(self.config.initializer_range)
        self.pooler = self.make_pooler()
        self.head = {
            name: nn.Dense(outputs, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=kernel_init)
            for name, outputs in self.heads.items()
        }
        if self.has_mlm:
            self.mlm = self.make_mlm_head()

    def make_layer(self, site: int | jax.Array, **options: Any) -> Any:
        """A layer whose dropout sites start at this number."""
        raise NotImplementedError

    def make_pooler(self) -> nn.Module:
        """What maps the state of the text, [..., D], to what a head reads."""
        return Pooler(
            self.config.hidden_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(self.config.initializer_range),
            act=self.config.pooler_act,
        )

    def make_mlm_head(self) -> nn.Module:
        """Maps hidden states [..., D] and word embeddings [V, E] to float32 logits [..., V]."""
        return MlmHead(self.config, self.dtype, self.param_dtype)

    def embed(self, input_ids: jax.Array, token_type_ids: jax.Array) -> jax.Array:
        """Embeddings [..., S, E] as SMART perturbs them: after LayerNorm, before dropout and any projection to D.

        Args:
          input_ids: int [..., S].
          token_type_ids: int [..., S].
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def run_layers(self, layers: Sequence[Any], hidden_states: jax.Array, *inputs: Any) -> jax.Array:
        """Runs consecutive layers on hidden states [..., S, D]; `inputs` are the layers' other arguments.

        With `remat`, the backward pass recomputes them; their parameters then have equal shapes.
        """
        if self.remat and layers and not self.is_initializing():
            return self._recomputed(layers, hidden_states, *inputs)
        for layer in layers:
            hidden_states = layer(hidden_states, *inputs)
        return hidden_states

    def _recomputed(self, layers: Sequence[Any], hidden_states: jax.Array, *inputs: Any) -> jax.Array:
        """The layers as a loop: in straight-line code XLA schedules the recomputation too early."""

        @partial(jax.checkpoint, prevent_cse=False)
        def body(x: jax.Array, layer: tuple[Any, jax.Array]) -> tuple[Any, None]:
            params, site = layer
            return self.make_layer(site, parent=None).apply({"params": params}, x, *inputs), None

        params = jax.tree.map(lambda *each: jnp.stack(each), *(layer.variables["params"] for layer in layers))
        sites = jnp.array([layer.first_site for layer in layers])
        return jax.lax.scan(body, hidden_states, (params, sites))[0]

    def pool(
        self, hidden_states: jax.Array, attention_mask: jax.Array, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """What a sentence head reads.

        Args:
          hidden_states: [..., S, D]; [..., 1, D] is enough if `config.pools_mean` is False.
          attention_mask: bool [..., S], False on padding.
          dropout_keys: See `encode`.

        Returns:
          [..., D]: the pooler of the [CLS] state, or of the mean over the tokens.
        """
        if self.config.pools_mean:
            # In float32: bfloat16 does not even count to 300.
            weights = attention_mask[..., None].astype(jnp.float32)
            total = jnp.sum(hidden_states.astype(jnp.float32) * weights, axis=-2)
            state = (total / jnp.maximum(jnp.sum(weights, axis=-2), 1)).astype(hidden_states.dtype)
        else:
            state = hidden_states[..., 0, :]
        if self.config.has_pooler_dropout:
            state = dropout(state, dropout_keys, self._head_site + 1, self.config.pooler_dropout_prob)
        return self.pooler(state)

    def logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        head: str,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """A head's float32 outputs [..., C] from embeddings [..., S, E]; see `encode` for the arguments."""
        return self.classify(self.pooled(embeddings, attention_mask, dropout_keys), head, dropout_keys)

    def pooled(
        self, embeddings: jax.Array, attention_mask: jax.Array, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """What a sentence head reads, [..., D], from embeddings [..., S, E]; see `encode` for the arguments."""
        # Where the head reads [CLS] alone, the last layer needs no other position: a sixth of the work of six layers.
        num_positions = None if self.config.pools_mean else 1
        hidden_states = self.encode(embeddings, attention_mask, dropout_keys, num_positions)
        return self.pool(hidden_states, attention_mask, dropout_keys)

    def classify(self, pooled: jax.Array, head: str, dropout_keys: jax.Array | None = None) -> jax.Array:
        """A head's float32 outputs [..., C] from pooled states [..., D]."""
        return self.head[head](dropout(pooled, dropout_keys, self._head_site, self.config.classifier_dropout_prob))

    @property
    def _head_site(self) -> int:
        return 1 + self.dropouts * self.config.num_hidden_layers

    def pretraining_logits(
        self,
        embeddings: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Logits of the pre-training heads, in one pass.

        Args:
          embeddings: [..., S, E], from `embed`.
          attention_mask: bool [..., S].
          masked_positions: int [..., P], the positions whose words are predicted.
          dropout_keys: See `encode`; the heads have no dropout.

        Returns:
          float32 logits: "mlm" over the vocabulary, [..., P, V]; and "nsp", [..., 2], if the model has that head:
          class 0 if the second text follows the first, else 1.
        """
        hidden_states = self.encode(embeddings, attention_mask, dropout_keys)
        masked = jnp.take_along_axis(hidden_states, masked_positions[..., None], axis=-2)
        logits = {"mlm": self.mlm(masked, self.embeddings.word.embedding)}
        if "nsp" in self.heads:
            logits["nsp"] = self.head["nsp"](self.pool(hidden_states, attention_mask))
        return logits

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
        return hidden_states, self.pool(hidden_states, attention_mask)


def init_params(key: jax.Array, model: Encoder) -> Any:
    """New parameters for `model`, heads included."""
    ids = jnp.zeros((1,), jnp.int32)
    return jax.jit(model.init)(key, ids, jnp.ones((1,), bool), ids)["params"]
