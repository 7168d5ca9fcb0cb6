"""What a sentence encoder scores on pairs before any fine-tuning: the cosine of its mean-pooled states.

A checkpoint that was trained to embed sentences (Reimers and Gurevych, EMNLP 2019) may do better so than after
fine-tuning on few labels, and then says little about how to fine-tune.
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
from bertjax.models.bert import Bert
from bertjax.parallel import DataParallel
from bertjax.pretrained import load_pretrained, resolve
from bertjax.pretrained.tokenizer import check_vocabulary, load_tokenizer
from bertjax.tasks import Task


def cosine_score(task: Task, config: RunConfig) -> dict[str, Any]:
    """The score on dev of the cosine between both texts' vectors.

    Args:
      task: on pairs, of a score or of two classes.
      config: says which checkpoint and where the data are; no label of theirs is trained on.

    Returns:
      "init_from"; "fingerprint" of the data; "metric", the task's main one; "score", its value on dev; "rows" of dev;
      "threshold", for two classes: the cosine that separates them best on all of train, which with the side of each
      class is all that is fitted; None for a score.

    Raises:
      UserError: the checkpoint or the data cannot be read.
    """
    dataset = load_dataset(task, config)
    folder = resolve(config.init_from)
    architecture, params = load_pretrained(config.init_from)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, architecture.vocab_size, folder)
    most = architecture.max_position_embeddings
    parallel = DataParallel(jax.devices())
    step = partial(pool_mean, model=Bert(architecture, {}))
    predictor, replicated = Predictor(step, parallel, architecture.pad_token_id), parallel.replicate(params)

    def vectors(split: str, name: str) -> np.ndarray:
        rows = ({"id": row["id"], "text": row[name], "label": row["label"]} for row in dataset.splits[split])
        examples = tokenize(rows, tokenizer, max_length=min(config.max_length, most))
        bucket_boundaries = tuple(
            min(edge, most) for edge in optimal_bucket_boundaries(examples.lengths, max_buckets=MAX_BUCKETS)
        )
        batch_size = parallel.up_to_even(config.batch_size)
        return predictor.predict(replicated, examples, batch_size=batch_size, bucket_boundaries=bucket_boundaries)

    def cosines_and_labels(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.array([row["label"] for row in dataset.splits[split]])
        return cosine(vectors(split, "text"), vectors(split, "text_pair")), labels

    cosines, labels = cosines_and_labels("dev")
    outputs, threshold = cosines[:, None], None
    if not task.schema.is_score:
        threshold, above = best_threshold(*cosines_and_labels("train"))
        outputs = np.eye(2)[np.where(cosines > threshold, above, 1 - above)]
    return {
        "init_from": config.init_from,
        "fingerprint": dataset.fingerprint,
        "metric": task.main_metric,
        "score": task.metrics(outputs, labels)[task.main_metric],
        "rows": len(labels),
        "threshold": threshold,
    }


def pool_mean(params: Any, batch: Mapping[str, jax.Array], *, model: Bert) -> jax.Array:
    """The mean of a text's hidden states over its tokens, without dropout: float32 [B, D]."""
    mask = batch["attention_mask"]

    def run(bert: Bert) -> jax.Array:
        return bert.encode(bert.embed(batch["input_ids"], batch["token_type_ids"]), mask)

    hidden: Any = model.apply({"params": params}, method=run)
    real = mask.astype(jnp.float32)[..., None]
    return jnp.sum(hidden * real, axis=1) / jnp.sum(real, axis=1)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of a with that of b, both [N, D]: float64 [N]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def best_threshold(cosines: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """The threshold, and the class of what lies above it, with which most labels [N] of two classes are right."""
    values, counts = np.unique(cosines, return_inverse=True)
    ones = np.bincount(counts, weights=labels == 1)
    zeros = np.bincount(counts, weights=labels == 0)
    # hits[i]: right where the i lowest values are class 0, and the others class 1.
    hits = np.concatenate([[0], np.cumsum(zeros)]) + ones.sum() - np.concatenate([[0], np.cumsum(ones)])
    bounds = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    wrong = len(labels) - hits
    above = int(hits.max() >= wrong.max())
    return float(bounds[int((hits if above else wrong).argmax())]), above
