"""Tasks: the columns of their data, loss, divergence and metrics; and the tasks by name."""

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
    """The columns of a task.

    Attributes:
      texts: names of the text columns: one, or two for a pair.
      label: name of the label column.
      label_names: of the classes, which the files number from 0; empty for a score.
      low: a score's least value.
      high: its greatest.
    """

    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def is_score(self) -> bool:
        """Whether labels are numbers and not classes."""
        return not self.label_names


SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")


ENTAILMENT = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of one head.

    Attributes:
      name: of the task, its data and its head.
      schema: the columns of its data and the names of its classes.
      loss: (logits [..., C], labels [...]) to the loss of each example, float32 [...].
      divergence: between outputs, for SMART.
      metrics: (logits [N, C], labels [N]), over a whole split on the host, to values by name.
      main_metric: the one that chooses the best checkpoint; larger is better.
      weight: of its objective in multi-task training.
      scale: of a score's labels, by which it is learnt standardised: `loss` and `divergence` are then in standardised
        units, `metrics` in the labels'. None for classes, and for scores learnt as they are.
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
        """{name: scale}, or empty without a scale: the form that `fold_heads` takes."""
        return {} if self.scale is None else {self.name: self.scale}

    @property
    def outputs(self) -> int:
        """Of the head: classes, or 1 for a score."""
        return len(self.schema.label_names) or 1


def classification_task(
    name: str,
    texts: tuple[str, ...],
    label: str,
    label_names: tuple[str, ...],
    metrics_fn: Callable[[np.ndarray, np.ndarray], Metrics] = classification_metrics,
    main_metric: str = "accuracy",
) -> Task:
    """Cross-entropy and symmetric KL over named classes."""
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    return Task(name, Schema(texts, label, label_names), loss, symmetric_kl, metrics_fn, main_metric)


def regression_task(name: str, texts: tuple[str, ...], label: str, low: float, high: float) -> Task:
    """Squared error of a score from low to high, judged by Pearson's correlation."""
    schema = Schema(texts, label, low=low, high=high)
    return Task(name, schema, score_loss, squared_error, regression_metrics, "pearson")


def with_scale(task: Task, scale: LabelScale) -> Task:
    """A task of a score, learnt standardised by its training labels' scale."""
    return dataclasses.replace(task, scale=scale, metrics=partial(regression_metrics, std=scale.std))


def score_loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared error of outputs [..., 1] against labels [...]: float32 [...]."""
    return jnp.square(jnp.squeeze(outputs, -1) - labels)


_ONE, _TWO = ("sentence",), ("sentence1", "sentence2")


_NEGATIVE, _DUPLICATE, _PARAPHRASE = ("negative", "positive"), ("different", "duplicate"), ("different", "equivalent")


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        # Starter sets: mean ratings of 20 people.
        classification_task("rated_sst", _ONE, "sentiment", SENTIMENTS),
        regression_task("rated_amazon", _ONE, "rating", -4, 4),
        regression_task("rated_tweets", _ONE, "rating", -4, 4),
        regression_task("rated_editorials", _ONE, "rating", -4, 4),
        # Gold labels, from the files of CS224N.
        classification_task("sst5", _ONE, "sentiment", SENTIMENTS),
        classification_task("cfimdb", _ONE, "sentiment", _NEGATIVE),
        classification_task("quora", _TWO, "is_duplicate", _DUPLICATE, binary_f1_metrics),
        regression_task("sts", _TWO, "similarity", 0, 5),
        # GLUE, from TFDS.
        classification_task("cola", _ONE, "label", ("unacceptable", "acceptable"), matthews_metrics, "matthews"),
        classification_task("sst2", _ONE, "label", _NEGATIVE),
        classification_task("mrpc", _TWO, "label", _PARAPHRASE, binary_f1_metrics),
        classification_task("qqp", ("question1", "question2"), "label", _DUPLICATE, binary_f1_metrics),
        regression_task("stsb", _TWO, "label", 0, 5),
        classification_task("mnli", ("premise", "hypothesis"), "label", ("entailment", "neutral", "contradiction")),
        classification_task("qnli", ("question", "sentence"), "label", ENTAILMENT),
        classification_task("rte", _TWO, "label", ENTAILMENT),
    )
}


def get_task(name: str) -> Task:
    """The task of that name; UserError naming the nearest one where there is none."""
    if name not in TASKS:
        raise UserError(f"--config.task: expected one of {', '.join(TASKS)}, found {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]
