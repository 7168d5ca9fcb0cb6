"""Forward passes of a model for one task: logits, pooled states, and the model split for SMART."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import smart
from bertjax.models.encoder import Encoder
from bertjax.smart.ema import Params
from bertjax.tasks import Task

Batch = Mapping[str, jax.Array]
"""input_ids, token_type_ids int32 [B, S]; attention_mask bool [B, S]; label [B]; index int32 [B], the example's index
in its split; valid bool [B], false on padding rows. With a frozen encoder, "pooled" float32 [B, D] replaces the first
three."""


def forward(
    model: Encoder, task: Task, params: Params, batch: Batch, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """The task's logits, float32 [..., C], for one example or a batch."""
    if "pooled" in batch:
        logits: Any = model.apply({"params": params}, batch["pooled"], task.name, dropout_keys, method="classify")
        return logits
    split = as_smart_model(model, task)
    return split.logits(params, split.embed(params, batch), batch, dropout_keys)


def as_smart_model(model: Encoder, task: Task) -> smart.SplitModel:
    """The model split at the embeddings, as SMART needs it."""

    def apply(params: Params, *arguments: Any, method: str) -> Any:
        return model.apply({"params": params}, *arguments, method=method)

    def embed(params: Params, batch: Batch) -> jax.Array:
        return apply(params, batch["input_ids"], batch["token_type_ids"], method="embed")

    def logits(params: Params, embeddings: jax.Array, batch: Batch, keys: jax.Array | None) -> jax.Array:
        return apply(params, embeddings, batch["attention_mask"], task.name, keys, method="logits")

    def kernel(params: Params) -> jax.Array:
        return params[f"head_{task.name}"]["kernel"]

    return smart.SplitModel(embed, logits, kernel)


def eval_step(params: Params, batch: Batch, *, model: Encoder, task: Task) -> jax.Array:
    """The task's logits without dropout: float32 [B, C]."""
    return forward(model, task, params, batch)


def pooled_step(params: Params, batch: Batch, *, model: Encoder) -> jax.Array:
    """Pooled states without dropout, the input of a frozen encoder's head: float32 [B, D]."""

    def run(encoder: Encoder) -> jax.Array:
        return encoder.pooled(encoder.embed(batch["input_ids"], batch["token_type_ids"]), batch["attention_mask"])

    pooled: Any = model.apply({"params": params}, method=run)
    return pooled.astype(jnp.float32)
