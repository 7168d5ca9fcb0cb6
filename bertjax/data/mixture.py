"""The batches of several tasks as one resumable stream."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.data.batching import HostBatch

_ANNEALED = 1.0, 0.2  # first and last exponent of annealed sampling


def task_schedule(sizes: Mapping[str, int], sampling: str, num_steps: int, seed: int) -> list[str]:
    """Chooses the task of each update.

    Args:
      sizes: n, the number of training examples of each task.
      sampling: "round_robin" takes tasks in the order of `sizes`. The others draw a task with probability proportional
        to a power of n: 1 for "proportional", 0.5 for "square_root", and for "annealed" a power that falls linearly
        from 1 to 0.2 over the run (Stickland and Murray, ICML 2019, who lower it by epochs).
      num_steps: number of updates.
      seed: seed of the draws, in [0, 2**32).

    Returns:
      The name of each update's task.
    """
    names = list(sizes)
    if sampling == "round_robin":
        return [names[step % len(names)] for step in range(num_steps)]
    powers = {
        "proportional": np.ones(num_steps),
        "square_root": np.full(num_steps, 0.5),
        "annealed": np.linspace(*_ANNEALED, num_steps),
    }[sampling]
    shares = np.array([sizes[name] for name in names], np.float64) ** powers[:, None]
    bounds = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    # A spawned sequence differs from the streams of examples and batches that the same seed decides.
    draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))).random(num_steps)
    return [names[i] for i in np.minimum((draws[:, None] >= bounds).sum(axis=1), len(names) - 1)]


class Mixture:
    """Iterates over {task: batch}, with one task or all tasks per update.

    A state from `get_state()`, passed to `set_state()` of an equal mixture, resumes with the next batch.
    """

    def __init__(self, iterators: Mapping[str, Any], schedule: Sequence[str] | None):
        """Takes an iterator for each task and the task of each update, or None for all tasks at every update."""
        self._iterators, self._schedule, self._step = iterators, schedule, 0

    def __iter__(self) -> Iterator[dict[str, HostBatch]]:
        return self

    def __next__(self) -> dict[str, HostBatch]:
        if self._schedule is not None and self._step == len(self._schedule):
            raise StopIteration
        names = self._iterators if self._schedule is None else (self._schedule[self._step],)
        batches = {name: next(self._iterators[name]) for name in names}
        self._step += 1
        return batches

    def get_state(self) -> dict[str, Any]:
        """The position in the stream, serialisable as JSON."""
        return {"step": self._step, "tasks": {name: it.get_state() for name, it in self._iterators.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a position from `get_state`."""
        self._step = state["step"]
        for name, iterator in self._iterators.items():
            iterator.set_state(state["tasks"][name])
