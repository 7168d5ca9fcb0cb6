"""One training step and one evaluation step, written for one replica."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.model import Bert
from bertjax.tasks import Task

Params = Any
Batch = Mapping[str, jax.Array]
"""input_ids, token_type_ids int32 [B, S]; attention_mask bool [B, S]; label [B]; index int32 [B], an example's
place in its split; valid bool [B], false on rows that only fill up the batch."""


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes.

    Attributes:
      step: updates so far, int32 [].
      params: θ, float32.
      opt_state: the optimizer's.
      anchor: θ̃ of the Bregman term, or None without one.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    anchor: Params | None


def init_state(params: Params, tx: optax.GradientTransformation, settings: smart.SmartSettings) -> TrainState:
    """The state before the first update."""
    anchor = smart.init_anchor(params) if settings.has_bregman else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), anchor)


def psum(tree: Any, axis: str | None) -> Any:
    """Sums over the mapped axis, if there is one."""
    return jax.lax.psum(tree, axis) if axis else tree


def example_keys(key: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] that depend on an example and not on its place in a batch or on a device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: Bert,
    task: Task,
    tx: optax.GradientTransformation,
    settings: smart.SmartSettings,
    num_steps: int,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of θ by the gradient of L + λ R_s + μ D.

    Args:
      state: the state, the same on every replica.
      batch: this replica's share of the batch.
      key: the run's key, the same on every replica and at every step.
      model: with a head of the task's name.
      task: its loss and divergence.
      tx: the optimizer.
      settings: SMART's.
      num_steps: of the whole run, for the anchor's decay.
      axis: name of the mapped axis, or None on a single device.

    Returns:
      The next state, and float32 scalars over all replicas: means over valid rows of "loss" (L) and
      "accuracy", of "smoothness" (R_s) and "bregman" (D) where their weights are not 0, and the
      gradient's norm before clipping, "gradient_norm". With `settings.every` = k, R_s is reported k-fold at
      every k-th step and as 0 between, so that its mean over steps is right.
    """
    anchor = state.anchor
    if anchor is not None:
        decay = smart.value_at(smart.anchor_decay(settings, num_steps), state.step)
        anchor = smart.update_anchor(anchor, state.params, decay)
    dropout_keys = example_keys(jax.random.fold_in(key, 0), state.step, batch["index"])
    noise_keys = example_keys(jax.random.fold_in(key, 1), state.step, batch["index"])
    valid = batch["valid"].astype(jnp.float32)
    # A sum over the replica's rows by the count over all: gradients and means then add up over replicas.
    weights = valid / jnp.maximum(psum(valid.sum(), axis), 1)
    is_regularised = settings.has_smoothness or settings.has_bregman

    def gradient(now: smart.SmartSettings) -> tuple[Params, dict[str, jax.Array]]:
        def objective(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            if is_regularised:
                terms = smart.smart_terms(
                    cut_at_embeddings(model, task),
                    params,
                    anchor,
                    batch,
                    dropout_keys,
                    noise_keys,
                    mask=batch["attention_mask"],
                    divergence=task.divergence,
                    settings=now,
                    loss_fn=lambda logits, example: task.loss(logits, example["label"]),
                    weights=weights,
                )
            else:
                logits = forward(model, task, params, batch, dropout_keys)
                none = jnp.zeros_like(valid)
                terms = smart.Terms(logits, task.loss(logits, batch["label"]), none, none)
            means = {
                "loss": jnp.sum(weights * terms.loss),
                "accuracy": jnp.sum(jnp.where(terms.logits.argmax(-1) == batch["label"], weights, 0)),
            }
            if settings.has_smoothness:
                means["smoothness"] = settings.every * jnp.sum(weights * terms.smoothness)
            if settings.has_bregman:
                means["bregman"] = jnp.sum(weights * terms.bregman)
            return jnp.sum(weights * terms.objective(now)), means

        return jax.grad(objective, has_aux=True)(state.params)

    total, means = psum(smart.at_update(settings, state.step, gradient), axis)
    updates, opt_state = tx.update(total, state.opt_state, state.params)
    means["gradient_norm"] = optax.tree.norm(total)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, anchor), means


def forward(model: Bert, task: Task, params: Params, batch: Batch, dropout_keys: jax.Array | None = None) -> jax.Array:
    """The task's logits: float32 [..., C], from one example or a batch."""
    cut = cut_at_embeddings(model, task)
    return cut.logits(params, cut.embed(params, batch), batch, dropout_keys)


def cut_at_embeddings(model: Bert, task: Task) -> smart.Model:
    """The model cut at the embeddings, as SMART takes it."""

    def apply(params: Params, *arguments: Any, method: str) -> Any:
        return model.apply({"params": params}, *arguments, method=method)

    def embed(params: Params, example: Batch) -> jax.Array:
        return apply(params, example["input_ids"], example["token_type_ids"], method="embed")

    def logits(params: Params, embedding: jax.Array, example: Batch, key: jax.Array | None) -> jax.Array:
        return apply(params, embedding, example["attention_mask"], task.name, key, method="logits")

    def kernel(params: Params) -> jax.Array:
        return params[f"head_{task.name}"]["kernel"]

    return smart.Model(embed, logits, kernel)


def eval_step(params: Params, batch: Batch, *, model: Bert, task: Task) -> jax.Array:
    """The task's logits without dropout: float32 [B, C]."""
    return forward(model, task, params, batch)
