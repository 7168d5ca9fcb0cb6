"""One training step and one evaluation step, written for one replica."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.accumulation import sum_over_parts
from bertjax.guard import update_if_finite
from bertjax.model import Bert
from bertjax.tasks import Task

Params = Any
Batch = Mapping[str, jax.Array]
"""input_ids, token_type_ids int32 [B, S]; attention_mask bool [B, S]; label [B]; index int32 [B], an example's
place in its split; valid bool [B], false on rows that only fill up the batch. Where the encoder is frozen, "pooled"
float32 [B, D] stands for the first three."""


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes.

    Attributes:
      step: updates so far, int32 []; those left out do not count.
      params: θ, float32.
      opt_state: the optimizer's.
      anchor: θ̃ of the Bregman term, which has moved after these parameters, or None without one.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    anchor: Params | None


def trained(params: Params, tune: str) -> Params:
    """The part of the parameters that is trained: all of them, or the heads."""
    return params if tune == "all" else {name: x for name, x in params.items() if name.startswith("head_")}


def init_state(
    params: Params, tx: optax.GradientTransformation, settings: smart.SmartSettings, tune: str = "all"
) -> TrainState:
    """The state before the first update."""
    anchor = smart.init_anchor(params) if settings.has_bregman else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(trained(params, tune)), anchor)


def psum(tree: Any, axis: str | None) -> Any:
    """Sums over the mapped axis, if there is one."""
    return jax.lax.psum(tree, axis) if axis else tree


def example_keys(key: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] that depend on an example and not on its place in a batch or on a device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)


def train_step(
    state: TrainState,
    batches: Mapping[str, Batch],
    key: jax.Array,
    *,
    model: Bert,
    tasks: Sequence[Task],
    tx: optax.GradientTransformation,
    settings: smart.SmartSettings,
    num_steps: int,
    tune: str = "all",
    micro_batches: int = 1,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of θ by the gradient of L + λ R_s + μ D.

    Args:
      state: the state, the same on every replica.
      batches: this replica's share of a batch of one task, by the task's name; or of one batch of each of several,
        and then `tx` takes the list of their gradients, as `surgery.pcgrad` does.
      key: the run's key, the same on every replica and at every step.
      model: with a head of each task's name.
      tasks: all tasks of the run.
      tx: the optimizer.
      settings: SMART's, for every task.
      num_steps: of the whole run, for the anchor's decay.
      tune: "all", or "head" to train heads alone.
      micro_batches: parts in which a replica's share is computed, one after another; the update is the same.
      axis: name of the mapped axis, or None on a single device.

    Returns:
      The next state, and float32 scalars over all replicas: means over valid rows of "loss" (L) and, of classes,
      "accuracy", of "smoothness" (R_s) and "bregman" (D) where their weights are not 0, and the
      gradient's norm before clipping, "gradient_norm". Where one of these is not finite the state is returned as it
      came, and "skipped" is 1, else 0. With `settings.every` = k, R_s is reported k-fold at
      every k-th step and as 0 between, so that its mean over steps is right. In a run of several tasks the names are
      prefixed, "TASK/loss", and "loss" is also there.
    """
    # Of turns of one task: with updates as the measure, tasks that take turns could each miss, or get, every k-th.
    turn = state.step // (1 if len(batches) > 1 else len(tasks))
    gradients: list[Params] = []
    values: dict[str, jax.Array] = {}
    for place, task in enumerate(tasks):
        if task.name not in batches:
            continue
        gradient, means = task_gradient(
            state,
            batches[task.name],
            key if len(tasks) == 1 else jax.random.fold_in(key, 2 + place),
            model=model,
            task=task,
            settings=settings,
            turn=turn,
            tune=tune,
            micro_batches=micro_batches,
            axis=axis,
        )
        gradients.append(gradient)
        values |= means if len(tasks) == 1 else {f"{task.name}/{name}": value for name, value in means.items()}
    if len(tasks) > 1:
        values["loss"] = jnp.mean(jnp.stack([values[f"{name}/loss"] for name in batches]))
    part = trained(state.params, tune)

    def update() -> TrainState:
        updates, opt_state = tx.update(gradients if len(gradients) > 1 else gradients[0], state.opt_state, part)
        params, step, anchor = state.params | optax.apply_updates(part, updates), state.step + 1, state.anchor
        if anchor is not None:
            # Here, and not on entering the next step, it is one pass with the optimizer's, and in place.
            decay = smart.value_at(smart.anchor_decay(settings, num_steps), step)
            anchor = smart.update_anchor(anchor, params, decay)
        return TrainState(step, params, opt_state, anchor)

    return update_if_finite(state, update, values)


def task_gradient(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: Bert,
    task: Task,
    settings: smart.SmartSettings,
    turn: jax.Array,
    tune: str,
    micro_batches: int,
    axis: str | None,
) -> tuple[Params, dict[str, jax.Array]]:
    """The gradient of one task's weighted objective over all replicas, and its means.

    Arguments are those of `train_step`, and `turn`, int32 [], which lazy steps and schedules count by.
    """
    keys = [example_keys(jax.random.fold_in(key, i), state.step, batch["index"]) for i in range(2)]
    valid = batch["valid"].astype(jnp.float32)
    # Sums over rows by the count over all: gradients and means then add up, over micro-batches and replicas.
    rows = (batch, *keys, valid / jnp.maximum(psum(valid.sum(), axis), 1))

    def gradient_of(rows: Any, now: smart.SmartSettings) -> tuple[Params, dict[str, jax.Array]]:
        batch, dropout_keys, noise_keys, weights = rows

        def objective(part: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            params = state.params | part
            if settings.has_smoothness or settings.has_bregman:
                terms = smart.smart_terms(
                    cut_at_embeddings(model, task),
                    params,
                    state.anchor,
                    batch,
                    dropout_keys,
                    noise_keys,
                    mask=batch["attention_mask"],
                    divergence=task.divergence,
                    settings=now,
                    loss_fn=lambda logits, example: task.loss(logits, example["label"]),
                    weights=task.weight * weights,  # as in the sum below, whose backward pass it shares
                )
            else:
                logits = forward(model, task, params, batch, dropout_keys)
                none = jnp.zeros_like(weights)
                terms = smart.Terms(logits, task.loss(logits, batch["label"]), none, none)
            means = {"loss": jnp.sum(weights * terms.loss)}
            if task.outputs > 1:
                means["accuracy"] = jnp.sum(jnp.where(terms.logits.argmax(-1) == batch["label"], weights, 0))
            if settings.has_smoothness:
                means["smoothness"] = settings.every * jnp.sum(weights * terms.smoothness)
            if settings.has_bregman:
                means["bregman"] = jnp.sum(weights * terms.bregman)
            return jnp.sum(task.weight * weights * terms.objective(now)), means

        return jax.grad(objective, has_aux=True)(trained(state.params, tune))

    def gradient(now: smart.SmartSettings) -> tuple[Params, dict[str, jax.Array]]:
        return sum_over_parts(partial(gradient_of, now=now), rows, micro_batches)

    total, means = psum(smart.at_update(settings, turn, gradient), axis)
    means["gradient_norm"] = optax.tree.norm(total)
    return total, means


def forward(model: Bert, task: Task, params: Params, batch: Batch, dropout_keys: jax.Array | None = None) -> jax.Array:
    """The task's logits: float32 [..., C], from one example or a batch."""
    if "pooled" in batch:
        logits: Any = model.apply({"params": params}, batch["pooled"], task.name, dropout_keys, method="classify")
        return logits
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


def pooled_step(params: Params, batch: Batch, *, model: Bert) -> jax.Array:
    """Pooled states without dropout, what a head sees of a frozen encoder: float32 [B, D]."""

    def run(bert: Bert) -> jax.Array:
        embeddings = bert.embed(batch["input_ids"], batch["token_type_ids"])
        return bert.pool(bert.encode(embeddings, batch["attention_mask"], first=1))

    pooled: Any = model.apply({"params": params}, method=run)
    return pooled.astype(jnp.float32)
