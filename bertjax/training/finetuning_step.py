"""One update of fine-tuning, with SMART's terms, written for one replica."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax import smart
from bertjax.models.dropout import example_keys
from bertjax.models.encoder import Encoder
from bertjax.models.forward import Batch, Params, as_smart_model, forward
from bertjax.parallel import psum
from bertjax.tasks import Task
from bertjax.training.microbatching import sum_over_micro_batches
from bertjax.training.nonfinite import update_if_finite
from bertjax.training.state import TrainState, trainable


@dataclasses.dataclass(frozen=True)
class FinetuningSpec:
    """What `train_step` computes, the same at every step of a run.

    Attributes:
      model: The encoder, with a head named after each task.
      tasks: All tasks of the run.
      tx: The optimizer.
      settings: SMART's settings, for every task.
      num_steps: Updates of the whole run, for the anchor's decay.
      tune: "all", or "head" to train the heads alone.
      micro_batches: Number of parts in which a replica computes its share of a batch, one after another.
    """

    model: Encoder
    tasks: Sequence[Task]
    tx: optax.GradientTransformation
    settings: smart.SmartSettings
    num_steps: int
    tune: str = "all"
    micro_batches: int = 1


def train_step(
    spec: FinetuningSpec,
    state: TrainState,
    batches: Mapping[str, Batch],
    key: jax.Array,
    *,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of θ by the gradient of L + λ R_s + μ D.

    Args:
      spec: What to compute.
      state: The state, the same on every replica.
      batches: This replica's share of the batch of one or more tasks, by the task's name. With several, `spec.tx` must
        accept a list of gradients, as `gradient_surgery.pcgrad` does.
      key: The run's key, the same on every replica and at every step.
      axis: Name of the mapped axis; None on a single device.

    Returns:
      The next state, and float32 scalars over all replicas.
        "loss": L, the mean over valid rows; "accuracy" for classes.
        "smoothness" and "bregman": R_s and D, if their weights are not 0. With `settings.every` = k, R_s is k times
          its value at every k-th step and 0 in between, so that its mean over steps is right.
        "gradient_norm": before clipping.
        "skipped": 1 if one of the above is not finite, and the state is then returned unchanged; else 0.
      In a run of several tasks the names are "TASK/loss" and so on, and "loss" is the mean over `batches`.
    """
    # Counted in turns, not updates: if two tasks alternate and k = 2, one would get every R_s and the other none.
    turn = state.step // (1 if len(batches) > 1 else len(spec.tasks))
    is_single = len(spec.tasks) == 1
    gradients: list[Params] = []
    values: dict[str, jax.Array] = {}
    for index, task in enumerate(spec.tasks):
        if task.name not in batches:
            continue
        task_key = key if is_single else jax.random.fold_in(key, 2 + index)
        gradient, means = task_gradient(spec, task, state, batches[task.name], task_key, turn=turn, axis=axis)
        gradients.append(gradient)
        values |= means if is_single else {f"{task.name}/{name}": value for name, value in means.items()}
    if not is_single:
        values["loss"] = jnp.mean(jnp.stack([values[f"{name}/loss"] for name in batches]))
    trained = trainable(state.params, spec.tune)

    def update() -> TrainState:
        updates, opt_state = spec.tx.update(gradients if len(gradients) > 1 else gradients[0], state.opt_state, trained)
        params, step, anchor = state.params | optax.apply_updates(trained, updates), state.step + 1, state.anchor
        if anchor is not None:
            # Here rather than at the start of the next step: XLA fuses it with the optimizer's pass, in place.
            decay = smart.value_at(smart.anchor_decay(spec.settings, spec.num_steps), step)
            anchor = smart.update_anchor(anchor, params, decay)
        return TrainState(step, params, opt_state, anchor)

    return update_if_finite(state, update, values)


def task_gradient(
    spec: FinetuningSpec,
    task: Task,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    turn: jax.Array,
    axis: str | None,
) -> tuple[Params, dict[str, jax.Array]]:
    """The gradient of one task's weighted objective over all replicas, and the means that `train_step` returns.

    Args:
      spec: What to compute.
      task: The task.
      state: The state, the same on every replica.
      batch: This replica's share of the task's batch.
      key: The task's key, the same on every replica and at every step.
      turn: The task's turns so far, int32 []; `settings.every` and schedules count by it.
      axis: Name of the mapped axis; None on a single device.
    """
    settings = spec.settings
    dropout_keys, noise_keys = (example_keys(jax.random.fold_in(key, i), state.step, batch["index"]) for i in range(2))
    valid = batch["valid"].astype(jnp.float32)
    # Each row is divided by the number of valid rows on all replicas, so that gradients and means are plain sums over
    # micro-batches and replicas.
    row_weights = valid / jnp.maximum(psum(valid.sum(), axis), 1)

    def gradient(now: smart.SmartSettings) -> tuple[Params, dict[str, jax.Array]]:
        def of_rows(rows: Any) -> tuple[Params, dict[str, jax.Array]]:
            batch, dropout_keys, noise_keys, row_weights = rows

            def objective(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
                params = state.params | trained
                if settings.has_smoothness or settings.has_bregman:
                    terms = smart.smart_terms(
                        as_smart_model(spec.model, task),
                        params,
                        state.anchor,
                        batch,
                        dropout_keys,
                        noise_keys,
                        divergence=task.divergence,
                        settings=now,
                        mask=batch["attention_mask"],
                        loss_fn=lambda logits, batch: task.loss(logits, batch["label"]),
                        weights=task.weight * row_weights,  # as in the sum below, to share its backward pass
                    )
                else:
                    logits = forward(spec.model, task, params, batch, dropout_keys)
                    zeros = jnp.zeros_like(row_weights)
                    terms = smart.Terms(logits, task.loss(logits, batch["label"]), zeros, zeros)
                means = {"loss": jnp.sum(row_weights * terms.loss)}
                if task.num_outputs > 1:
                    is_right = terms.logits.argmax(-1) == batch["label"]
                    means["accuracy"] = jnp.sum(jnp.where(is_right, row_weights, 0))
                if settings.has_smoothness:
                    means["smoothness"] = settings.every * jnp.sum(row_weights * terms.smoothness)
                if settings.has_bregman:
                    means["bregman"] = jnp.sum(row_weights * terms.bregman)
                return jnp.sum(task.weight * row_weights * terms.objective(now)), means

            return jax.grad(objective, has_aux=True)(trainable(state.params, spec.tune))

        return sum_over_micro_batches(of_rows, (batch, dropout_keys, noise_keys, row_weights), spec.micro_batches)

    total, means = psum(smart.at_update(settings, turn, gradient), axis)
    means["gradient_norm"] = optax.tree.norm(total)
    return total, means
