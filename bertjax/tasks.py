"""What a task is to the training step and to evaluation, and the tasks by name."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax

from bertjax import metrics
from bertjax.errors import UserError, nearest
from bertjax.smart.divergences import Divergence, symmetric_kl


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of one head.

    Attributes:
      name: of the task, its data and its head.
      outputs: of the head: classes, or 1 for a score.
      loss: (logits [..., C], labels [...]) to the loss of each example, float32 [...].
      divergence: between outputs, for SMART.
      metrics: (logits [N, C], labels [N]), over a whole split on the host, to values by name.
      main_metric: the one that chooses the best checkpoint; larger is better.
    """

    name: str
    outputs: int
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    divergence: Divergence
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    main_metric: str


def classification(name: str, classes: int) -> Task:
    """Cross-entropy over `classes`, symmetric KL, accuracy."""
    return Task(
        name=name,
        outputs=classes,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        divergence=symmetric_kl,
        metrics=metrics.classification,
        main_metric="accuracy",
    )


TASKS: Mapping[str, Task] = {task.name: task for task in (classification("rated_sst", 5), classification("sst5", 5))}


def get_task(name: str) -> Task:
    """The task of that name; UserError naming the nearest one where there is none."""
    if name not in TASKS:
        raise UserError(f"--config.task: expected one of {', '.join(TASKS)}, found {name!r}{nearest(name, TASKS)}")
    return TASKS[name]
