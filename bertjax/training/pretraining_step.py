"""One update of further pre-training and its evaluation, for one replica.

The loss is that of masked-language modelling (MLM) and, in a model with the head "nsp", of next-sentence prediction
(NSP; Devlin et al., NAACL 2019). Without that head no metric mentions NSP.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.models.dropout import example_keys
from bertjax.models.encoder import Encoder
from bertjax.models.forward import Batch, Params
from bertjax.parallel import psum
from bertjax.training.microbatching import sum_over_micro_batches
from bertjax.training.nonfinite import update_if_finite
from bertjax.training.state import TrainState, trainable

_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def with_pretraining_heads(params: Params, model: Encoder, key: jax.Array) -> tuple[dict[str, Any], bool]:
    """Adds the pre-training heads to an encoder: the checkpoint's own if it has them, else new ones.

    Args:
      params: From `load_pretrained`; other heads are dropped.
      model: A model with `has_mlm` and its family's `pretraining_heads`.
      key: Key of the new heads.

    Returns:
      The parameters of `model`, and whether a head is new.
    """
    heads = ["mlm", *(f"head_{name}" for name in model.heads)]

    def fresh(key: jax.Array) -> Params:
        ids = jnp.zeros((1,), jnp.int32)
        initial: Any = model.init(key, ids, jnp.ones((1,), bool), ids)["params"]
        return {name: initial[name] for name in heads}

    encoder = {name: x for name, x in params.items() if name != "classifier" and not name.startswith("head_")}
    own = {name: params[name] for name in heads if name in params}
    return encoder | jax.jit(fresh)(key) | own, len(own) < len(heads)


def init_pretraining_state(
    params: Params, tx: optax.GradientTransformation, *, model: Encoder, tune: str
) -> TrainState:
    """The state before the first update; see `pretrain_step` for the arguments."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(_trained(params, model, tune)), None)


def pretrain_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: Encoder,
    tx: optax.GradientTransformation,
    tune: str = "all",
    micro_batches: int = 1,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the gradient of the mean MLM loss over masked positions, plus the mean NSP loss over pairs if any.

    Args:
      state: The state, the same on every replica.
      batch: This replica's share of a batch, see `data.mlm.MlmBatches`.
      key: The run's key, the same on every replica and at every step.
      model: The model with the pre-training heads of its family.
      tx: The optimizer.
      tune: "all", or "head" to freeze the encoder, word embeddings included; there is then no dropout. Without NSP
        nothing reads the pooler, which then stays as it is.
      micro_batches: Number of parts in which a replica computes its share of a batch, one after another.
      axis: Name of the mapped axis; None on a single device.

    Returns:
      The next state, and float32 scalars over all replicas: "loss", "mlm_loss", "mlm_accuracy"; with NSP
      "nsp_accuracy"; "gradient_norm", before clipping; and "skipped". If one of the others is not finite, "skipped" is
      1 and the state is unchanged; else it is 0.
    """
    keys = example_keys(key, state.step, batch["index"]) if tune == "all" else None
    is_masked = (batch["masked_valid"] & batch["valid"][:, None]).astype(jnp.float32)
    valid = batch["valid"].astype(jnp.float32)
    # Divided by the counts on all replicas, so that gradients and means are plain sums over micro-batches and replicas.
    mlm_weights = is_masked / jnp.maximum(psum(is_masked.sum(), axis), 1)
    nsp_weights = valid / jnp.maximum(psum(valid.sum(), axis), 1)
    trained = _trained(state.params, model, tune)

    def gradient_of(rows: Any) -> tuple[Params, dict[str, jax.Array]]:
        batch, keys, mlm_weights, nsp_weights = rows

        def objective(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            logits = _logits(state.params | trained, batch, model, keys)
            mlm = logits["mlm"]
            loss = mlm_loss = jnp.sum(mlm_weights * _cross_entropy(mlm, batch["masked_ids"]))
            means = {
                "mlm_loss": mlm_loss,
                "mlm_accuracy": jnp.sum(jnp.where(mlm.argmax(-1) == batch["masked_ids"], mlm_weights, 0)),
            }
            if "nsp" in logits:
                nsp = logits["nsp"]
                loss = mlm_loss + jnp.sum(nsp_weights * _cross_entropy(nsp, batch["label"]))
                means["nsp_accuracy"] = jnp.sum(jnp.where(nsp.argmax(-1) == batch["label"], nsp_weights, 0))
            return loss, {"loss": loss, **means}

        return jax.grad(objective, has_aux=True)(trained)

    gradient, means = psum(
        sum_over_micro_batches(gradient_of, (batch, keys, mlm_weights, nsp_weights), micro_batches), axis
    )
    means["gradient_norm"] = optax.tree.norm(gradient)

    def update() -> TrainState:
        updates, opt_state = tx.update(gradient, state.opt_state, trained)
        return TrainState(state.step + 1, state.params | optax.apply_updates(trained, updates), opt_state, None)

    return update_if_finite(state, update, means)


def pretrain_eval_step(params: Params, batch: Batch, *, model: Encoder) -> dict[str, jax.Array]:
    """Sums for each example, without dropout: float32 [B], 0 in padding rows.

    "mlm_loss", "mlm_hits" and "mlm_count" over masked positions; with NSP "nsp_hits" and "nsp_count", 1 per pair.
    """
    logits = _logits(params, batch, model, None)
    mlm = logits["mlm"]
    masked = (batch["masked_valid"] & batch["valid"][:, None]).astype(jnp.float32)
    sums = {
        "mlm_loss": jnp.sum(masked * _cross_entropy(mlm, batch["masked_ids"]), axis=1),
        "mlm_hits": jnp.sum(jnp.where(mlm.argmax(-1) == batch["masked_ids"], masked, 0), axis=1),
        "mlm_count": masked.sum(axis=1),
    }
    if "nsp" in logits:
        valid = batch["valid"].astype(jnp.float32)
        sums["nsp_hits"] = jnp.where(logits["nsp"].argmax(-1) == batch["label"], valid, 0)
        sums["nsp_count"] = valid
    return sums


def pretraining_metrics(sums: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Metrics of a split from the sums that `pretrain_eval_step` returns for its batches.

    Returns:
      "mlm_accuracy" and "mlm_perplexity", the exponential of the mean loss, over masked positions; with NSP
      "nsp_accuracy" over pairs.
    """
    total: dict[str, float] = {}
    for batch in sums:
        for name, values in batch.items():
            total[name] = total.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
    metrics = {
        "mlm_accuracy": total["mlm_hits"] / max(total["mlm_count"], 1),
        "mlm_perplexity": float(np.exp(total["mlm_loss"] / max(total["mlm_count"], 1))),
    }
    if "nsp_count" in total:
        metrics["nsp_accuracy"] = total["nsp_hits"] / max(total["nsp_count"], 1)
    return metrics


def _trained(params: Params, model: Encoder, tune: str) -> Params:
    """The parameters that are trained.

    Without NSP the pooler has no gradient: weight decay alone would shrink it.
    """
    trained = trainable(params, tune)
    return trained if "nsp" in model.heads else {name: x for name, x in trained.items() if name != "pooler"}


def _logits(params: Params, batch: Batch, model: Encoder, keys: jax.Array | None) -> dict[str, jax.Array]:
    def run(bert: Encoder) -> dict[str, jax.Array]:
        embeddings = bert.embed(batch["input_ids"], batch["token_type_ids"])
        return bert.pretraining_logits(embeddings, batch["attention_mask"], batch["masked_positions"], keys)

    outputs: Any = model.apply({"params": params}, method=run)
    return outputs
