"""Tasks: the columns, loss, divergence and metrics of each, and the table of tasks by name."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.errors import UserError, did_you_mean
from bertjax.label_scale import LabelScale
from bertjax.metrics import Metrics, binary_f1_metrics, classification_metrics, matthews_metrics, regression_metrics
from bertjax.smart.divergences import Divergence, squared_error, symmetric_kl


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a task's data.

    Attributes:
      texts: names of the text columns: one, or two for a pair.
      label: name of the label column.
      label_names: names of the classes, which files number from 0; empty for a score.
      low: minimum of a score.
      high: maximum of a score.
    """

    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def is_score(self) -> bool:
        """Whether labels are numbers, not classes."""
        return not self.label_names


SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model learns with one head.

    Attributes:
      name: name of the task, its data and its head.
      schema: the columns of its data and the names of its classes.
      loss: maps logits [..., C] and labels [...] to per-example losses, float32 [...].
      divergence: SMART's divergence between outputs.
      metrics: maps logits [N, C] and labels [N] of a whole split, on the host, to values by name.
      main_metric: the metric that selects the best checkpoint; larger is better.
      weight: weight of its objective in multi-task training.
      scale: mean and std of a score's training labels. With a scale, `loss` and `divergence` are in standardised units
        and `metrics` in the labels'. None for classes, and for scores learnt without standardising.
    """

    name: str
    schema: Schema
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    divergence: Divergence
    metrics: Callable[[np.ndarray, np.ndarray], Metrics]
    main_metric: str
    weight: float = 1.0
    scale: LabelScale | None = None

    @property
    def scales(self) -> dict[str, LabelScale]:
        """{name: scale}, or {} without a scale, as `fold_heads` takes it."""
        return {} if self.scale is None else {self.name: self.scale}

    @property
    def num_outputs(self) -> int:
        """Outputs of the head: the number of classes, or 1 for a score."""
        return len(self.schema.label_names) or 1


def classification_task(
    name: str,
    texts: tuple[str, ...],
    label: str,
    label_names: tuple[str, ...],
    metrics_fn: Callable[[np.ndarray, np.ndarray], Metrics] = classification_metrics,
    main_metric: str = "accuracy",
) -> Task:
    """A task of named classes: cross-entropy as loss, symmetric KL as divergence."""
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    return Task(name, Schema(texts, label, label_names), loss, symmetric_kl, metrics_fn, main_metric)


def regression_task(name: str, texts: tuple[str, ...], label: str, low: float, high: float) -> Task:
    """A task of scores from low to high: squared error as loss and divergence, Pearson's correlation as main metric."""
    schema = Schema(texts, label, low=low, high=high)
    return Task(name, schema, score_loss, squared_error, regression_metrics, "pearson")


def with_scale(task: Task, scale: LabelScale) -> Task:
    """The same task of scores, learnt standardised by this scale."""
    return dataclasses.replace(task, scale=scale, metrics=partial(regression_metrics, std=scale.std))


def score_loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared error of outputs [..., 1] against labels [...]: float32 [...]."""
    return jnp.square(jnp.squeeze(outputs, -1) - labels)


_ONE_TEXT, _PAIR = ("sentence",), ("sentence1", "sentence2")
_POLARITY, _DUPLICATE, _PARAPHRASE = ("negative", "positive"), ("different", "duplicate"), ("different", "equivalent")
_ENTAILMENT = ("entailment", "not_entailment")
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        # Starter sets, labelled with the mean ratings of 20 people.
        classification_task("rated_sst", _ONE_TEXT, "sentiment", SENTIMENTS),
        regression_task("rated_amazon", _ONE_TEXT, "rating", -4, 4),
        regression_task("rated_tweets", _ONE_TEXT, "rating", -4, 4),
        regression_task("rated_editorials", _ONE_TEXT, "rating", -4, 4),
        # Gold labels, from the files of CS224N.
        classification_task("sst5", _ONE_TEXT, "sentiment", SENTIMENTS),
        classification_task("cfimdb", _ONE_TEXT, "sentiment", _POLARITY),
        classification_task("quora", _PAIR, "is_duplicate", _DUPLICATE, binary_f1_metrics),
        regression_task("sts", _PAIR, "similarity", 0, 5),
        # GLUE, from TFDS.
        classification_task("cola", _ONE_TEXT, "label", ("unacceptable", "acceptable"), matthews_metrics, "matthews"),
        classification_task("sst2", _ONE_TEXT, "label", _POLARITY),
        classification_task("mrpc", _PAIR, "label", _PARAPHRASE, binary_f1_metrics),
        classification_task("qqp", ("question1", "question2"), "label", _DUPLICATE, binary_f1_metrics),
        regression_task("stsb", _PAIR, "label", 0, 5),
        classification_task("mnli", ("premise", "hypothesis"), "label", ("entailment", "neutral", "contradiction")),
        classification_task("qnli", ("question", "sentence"), "label", _ENTAILMENT),
        classification_task("rte", _PAIR, "label", _ENTAILMENT),
    )
}


def get_task(name: str) -> Task:
    """The task with this name; for an unknown name a UserError that suggests a similar one."""
    if name not in TASKS:
        raise UserError(f"--config.task: expected one of {', '.join(TASKS)}, found {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]
