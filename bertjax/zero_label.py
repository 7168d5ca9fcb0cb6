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
from bertjax.data.batches import bucket_edges
from bertjax.data.text import load_tokenizer, tokenize
from bertjax.evaluation import Predictor
from bertjax.inputs import MAX_BUCKETS, load_dataset
from bertjax.model import Bert
from bertjax.parallel import DataParallel
from bertjax.pretrained import load_pretrained, resolve
from bertjax.tasks import Task

_SPLITS = ("train", "dev")


def cosine_score(task: Task, config: RunConfig) -> dict[str, Any]:
    """The score on dev of the cosine between both texts' vectors.

    Args:
      task: on pairs, of a score or of two classes.
      config: says which checkpoint and where the data are; no label of theirs is trained on.

    Returns:
      "metric", the task's main one; "score", its value on dev; "rows" of dev; "threshold", for two classes: the cosine
      that parts them best on train, the one number that is fitted, or None.

    Raises:
      UserError: the checkpoint or the data cannot be read.
    """
    dataset = load_dataset(task, config)
    model_config, params = load_pretrained(config.init_from)
    tokenizer = load_tokenizer(resolve(config.init_from))
    step = partial(pool_mean, model=Bert(model_config, {}))
    parallel = DataParallel(jax.devices())
    predictor, replicated = Predictor(step, parallel, model_config.pad_token_id), parallel.replicate(params)
    cosines, labels = {}, {}
    for split in _SPLITS if task.outputs == 2 else _SPLITS[1:]:
        vectors = []
        for name in ("text", "text_pair"):
            rows = ({"id": row["id"], "text": row[name], "label": row["label"]} for row in dataset.splits[split])
            examples = tokenize(rows, tokenizer, max_length=config.max_length)
            edges = bucket_edges(examples.lengths, max_buckets=MAX_BUCKETS)
            batch_size = parallel.up_to_even(config.batch_size)
            vectors.append(predictor.predict(replicated, examples, batch_size=batch_size, edges=edges))
            labels[split] = examples.labels
        cosines[split] = cosine(*vectors)
    threshold = best_threshold(cosines["train"], labels["train"]) if task.outputs == 2 else None
    outputs = cosines["dev"][:, None]
    if threshold is not None:
        outputs = np.eye(2)[(cosines["dev"] > threshold).astype(int)]
    score = task.metrics(outputs, labels["dev"])[task.main_metric]
    return {"metric": task.main_metric, "score": score, "rows": len(labels["dev"]), "threshold": threshold}


def pool_mean(params: Any, batch: Mapping[str, jax.Array], *, model: Bert) -> jax.Array:
    """The mean of a text's hidden states over its tokens: float32 [B, D]."""
    mask = batch["attention_mask"]

    def run(bert: Bert) -> jax.Array:
        return bert.encode(bert.embed(batch["input_ids"], batch["token_type_ids"]), mask)

    hidden: Any = model.apply({"params": params}, method=run)
    real = mask.astype(jnp.float32)[..., None]
    return jnp.sum(hidden * real, axis=1) / jnp.sum(real, axis=1)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors [N, D] twice: float64 [N]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def best_threshold(cosines: np.ndarray, labels: np.ndarray) -> float:
    """The cosine above which class 1 is said, so that most of the labels [N] are right."""
    order = np.argsort(cosines, kind="stable")
    # hits[i]: right where the i lowest are class 0, and the others class 1.
    hits = np.concatenate([[0], np.cumsum(labels[order] == 0)]) + np.concatenate(
        [np.cumsum(labels[order][::-1] == 1)[::-1], [0]]
    )
    bounds = np.concatenate([[-1.0], cosines[order], [1.0]])
    best = int(hits.argmax())
    return float((bounds[best] + bounds[best + 1]) / 2)
