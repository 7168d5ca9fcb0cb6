"""The batches of a fine-tuning run: the training stream, the evaluation on dev, and a frozen encoder's states."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from bertjax.config import RunConfig
from bertjax.data.batching import eval_batches, real_token_fraction, steps_per_epoch, train_batches, with_pooled
from bertjax.data.mixture import Mixture, task_schedule
from bertjax.data.pipeline import Inputs
from bertjax.evaluation.predictor import Predictor
from bertjax.label_scale import fold_heads
from bertjax.models.forward import Batch, Params, eval_step, pooled_step
from bertjax.parallel import DataParallel
from bertjax.tasks import Task
from bertjax.training.train_loop import Scores


class FinetuningData:
    """The data of a run in batches.

    With `tune` = "head" the encoder is frozen: it runs once over all examples, and batches hold its pooled states in
    place of tokens.
    """

    def __init__(self, config: RunConfig, inputs: Inputs, params: Params, parallel: DataParallel):
        """`params` are the initial parameters. Only a frozen encoder's states need them; they are not kept."""
        self._config, self._inputs, self._parallel = config, inputs, parallel
        self._pooled: dict[str, dict[str, np.ndarray]] = {}  # float32 [N, D] by task and split
        if config.tune == "head":
            predictor = self._predictor(partial(pooled_step, model=inputs.model))
            replicated = parallel.replicate(params)
            for name, part in inputs.data.items():
                self._pooled[name] = {
                    split: predictor.predict(replicated, examples, **self._shapes(name))
                    for split, examples in part.examples.items()
                }
        self._predictors = {
            name: self._predictor(partial(self._logits, task=part.task)) for name, part in inputs.data.items()
        }

    def stream(self, num_steps: int) -> Mixture:
        """The batches of all updates."""
        config, iterators, sizes = self._config, {}, {}
        for name, part in self._inputs.data.items():
            train = part.examples["train"]
            if part.task.scale is not None:
                train = dataclasses.replace(train, labels=part.task.scale.standardize(train.labels))
            shapes = self._shapes(name)
            # Tasks are sampled, so one task might get every update.
            epochs = -(-num_steps // steps_per_epoch(train.lengths, **shapes))
            iterators[name] = train_batches(
                train,
                **shapes,
                seed=config.seed,
                epochs=epochs,
                pad_id=self._pad_id,
                convert=partial(with_pooled, self._pooled[name]["train"]) if self._pooled else None,
            )
            sizes[name] = len(train)
        return Mixture(
            iterators, None if config.pcgrad else task_schedule(sizes, config.sampling, num_steps, config.seed)
        )

    def evaluate(self, params: Params) -> Scores:
        """Metrics of each task on dev, and with several tasks their mean main metric as "mean"."""
        scores: Scores = {}
        for name, part in self._inputs.data.items():
            dev = part.examples["dev"]
            pooled = self._pooled[name]["dev"] if self._pooled else None
            outputs = self._predictors[name].predict(params, dev, **self._shapes(name), pooled=pooled)
            scores[name] = part.task.metrics(outputs, dev.labels)
        if len(scores) > 1:
            mains = [scores[name][part.task.main_metric] for name, part in self._inputs.data.items()]
            scores["mean"] = {"score": float(np.mean(mains))}
        return scores

    def steps_per_epoch(self) -> int:
        """Updates in which every training example is seen once."""
        per_task = [
            steps_per_epoch(part.examples["train"].lengths, **self._shapes(name))
            for name, part in self._inputs.data.items()
        ]
        # With pcgrad an update takes a batch of every task.
        return -(-sum(per_task) // (len(per_task) if self._config.pcgrad else 1))

    def real_token_fraction(self) -> float:
        """Share of the training batches' tokens that are not padding."""
        real, padded = 0.0, 0.0
        for name, part in self._inputs.data.items():
            lengths = part.examples["train"].lengths
            real += lengths.sum()
            padded += lengths.sum() / real_token_fraction(lengths, **self._shapes(name))
        return real / padded

    def sample_steps(self) -> list[dict[str, Any]]:
        """Sharded batches of one update for each task, or with pcgrad of one update for all tasks."""
        batches = {}
        for name, part in self._inputs.data.items():
            batch = next(iter(eval_batches(part.examples["train"], **self._shapes(name), pad_id=self._pad_id)))
            batch = with_pooled(self._pooled[name]["train"], batch) if self._pooled else batch
            batches[name] = self._parallel.shard(batch)
        return [batches] if self._config.pcgrad else [{name: batch} for name, batch in batches.items()]

    @property
    def _pad_id(self) -> int:
        return self._inputs.model.config.pad_token_id

    def _shapes(self, name: str) -> dict[str, Any]:
        return {"batch_size": self._config.batch_size, "bucket_boundaries": self._inputs.data[name].bucket_boundaries}

    def _predictor(self, step: Any) -> Predictor:
        return Predictor(step, self._parallel, self._pad_id)

    def _logits(self, params: Params, batch: Batch, *, task: Task) -> jax.Array:
        """Scores in the labels' units."""
        return eval_step(fold_heads(params, self._inputs.scales), batch, model=self._inputs.model, task=task)
