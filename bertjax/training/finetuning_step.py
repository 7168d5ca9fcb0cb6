"""One training step and one evaluation step, written for one replica."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.models.bert import Bert
from bertjax.models.dropout import example_keys
from bertjax.models.forward import Batch, Params, as_smart_model, forward
from bertjax.parallel import psum
from bertjax.tasks import Task
from bertjax.training.microbatching import sum_over_micro_batches
from bertjax.training.nonfinite import update_if_finite
from bertjax.training.state import TrainState, trainable


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
    part = trainable(state.params, tune)

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
                    as_smart_model(model, task),
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

        return jax.grad(objective, has_aux=True)(trainable(state.params, tune))

    def gradient(now: smart.SmartSettings) -> tuple[Params, dict[str, jax.Array]]:
        return sum_over_micro_batches(partial(gradient_of, now=now), rows, micro_batches)

    total, means = psum(smart.at_update(settings, turn, gradient), axis)
    means["gradient_norm"] = optax.tree.norm(total)
    return total, means
