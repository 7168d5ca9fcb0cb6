"""A baseline without training for pair tasks: the cosine of a sentence encoder's mean-pooled hidden states.

A checkpoint trained to embed sentences (Reimers and Gurevych, EMNLP 2019) may score higher this way than after
fine-tuning on few labels. Such a task then says little about fine-tuning methods.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import RunConfig
from bertjax.data.batching import optimal_bucket_boundaries
from bertjax.data.pipeline import MAX_BUCKETS, load_dataset
from bertjax.data.tokenize import tokenize
from bertjax.evaluation.predictor import Predictor
from bertjax.models.encoder import Encoder
from bertjax.models.families import build_encoder
from bertjax.parallel import DataParallel
from bertjax.pretrained import load_pretrained, resolve_checkpoint
from bertjax.pretrained.tokenizer import check_tokenizer_fits, load_tokenizer
from bertjax.tasks import Task


def cosine_score(task: Task, config: RunConfig) -> dict[str, Any]:
    """Scores the cosine between the two texts' vectors as a prediction on dev.

    Args:
      task: a pair task with a score or two classes.
      config: names the checkpoint and the data.

    Returns:
      A dictionary of "init_from"; "fingerprint", of the data; "metric", the task's main one; "score", its value on dev;
      "rows", of dev; and "threshold". With two classes the threshold is the cosine that separates them best on all of
      train. It and the class above it are all that is fitted. For a score it is None.

    Raises:
      UserError: the checkpoint or the data cannot be read.
    """
    dataset = load_dataset(task, config)
    folder = resolve_checkpoint(config.init_from)
    architecture, params = load_pretrained(config.init_from)
    tokenizer = load_tokenizer(folder)
    check_tokenizer_fits(tokenizer, architecture, folder)
    max_positions = architecture.max_length
    parallel = DataParallel(jax.devices())
    step = partial(mean_pool, model=build_encoder(architecture, {}))
    predictor, replicated = Predictor(step, parallel, architecture.pad_token_id), parallel.replicate(params)

    def embed(split: str, column: str) -> np.ndarray:
        rows = ({"id": row["id"], "text": row[column], "label": row["label"]} for row in dataset.splits[split])
        examples = tokenize(rows, tokenizer, max_length=min(config.max_length, max_positions))
        bucket_boundaries = optimal_bucket_boundaries(
            examples.lengths, max_buckets=MAX_BUCKETS, max_length=max_positions
        )
        batch_size = parallel.round_up_batch_size(config.batch_size)
        return predictor.predict(replicated, examples, batch_size=batch_size, bucket_boundaries=bucket_boundaries)

    def cosines_and_labels(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.array([row["label"] for row in dataset.splits[split]])
        return cosine(embed(split, "text"), embed(split, "text_pair")), labels

    cosines, labels = cosines_and_labels("dev")
    outputs, threshold = cosines[:, None], None
    if not task.schema.is_score:
        threshold, class_above = best_threshold(*cosines_and_labels("train"))
        outputs = np.eye(2)[np.where(cosines > threshold, class_above, 1 - class_above)]
    return {
        "init_from": config.init_from,
        "fingerprint": dataset.fingerprint,
        "metric": task.main_metric,
        "score": task.metrics(outputs, labels)[task.main_metric],
        "rows": len(labels),
        "threshold": threshold,
    }


def mean_pool(params: Any, batch: Mapping[str, jax.Array], *, model: Encoder) -> jax.Array:
    """The mean of each text's hidden states over its tokens, without dropout: float32 [B, D]."""
    mask = batch["attention_mask"]

    def run(bert: Encoder) -> jax.Array:
        return bert.encode(bert.embed(batch["input_ids"], batch["token_type_ids"]), mask)

    hidden_states: Any = model.apply({"params": params}, method=run)
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(hidden_states * weights, axis=1) / jnp.sum(weights, axis=1)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine between rows of a and b, both [N, D]: float64 [N]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def best_threshold(cosines: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Fits the threshold that classifies most of the labels [N], 0 or 1, correctly.

    Returns:
      The threshold, and the class of the cosines above it.
    """
    values, places = np.unique(cosines, return_inverse=True)
    ones = np.bincount(places, weights=labels == 1)
    zeros = np.bincount(places, weights=labels == 0)
    # hits[i]: the number correct if the i lowest values are class 0 and the others class 1.
    hits = np.concatenate([[0], np.cumsum(zeros)]) + ones.sum() - np.concatenate([[0], np.cumsum(ones)])
    thresholds = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    hits_if_swapped = len(labels) - hits
    class_above = int(hits.max() >= hits_if_swapped.max())
    return float(thresholds[int((hits if class_above else hits_if_swapped).argmax())]), class_above
