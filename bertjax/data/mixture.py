"""Several tasks' batches as one stream: which task's turn it is, and where each of them stands."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.data.batching import HostBatch

ANNEALED = 1.0, 0.2
"""The first and the last exponent of annealed sampling."""


def turns(sizes: Mapping[str, int], sampling: str, num_steps: int, seed: int) -> list[str]:
    """The task of each update.

    Args:
      sizes: n, the training examples of each task.
      sampling: "round_robin", in the order of `sizes`; or "proportional", "square_root" and "annealed", which draw a
        task with a probability proportional to a power of n: 1, 0.5, or one that falls linearly from 1 to 0.2 over
        the run (Stickland and Murray, ICML 2019, who lower it by epochs).
      num_steps: of the run.
      seed: of the draws, in [0, 2**32).
    """
    names = list(sizes)
    if sampling == "round_robin":
        return [names[step % len(names)] for step in range(num_steps)]
    powers = {
        "proportional": np.ones(num_steps),
        "square_root": np.full(num_steps, 0.5),
        "annealed": np.linspace(*ANNEALED, num_steps),
    }[sampling]
    shares = np.array([sizes[name] for name in names], np.float64) ** powers[:, None]
    bounds = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    # A spawned sequence: no other stream that the seed decides, of examples or of batches, begins like it.
    draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))).random(num_steps)
    return [names[i] for i in np.minimum((draws[:, None] >= bounds).sum(axis=1), len(names) - 1)]


class Mixture:
    """An iterator over {task: batch}: one task an update as `turns` says, or every task at every update.

    A state from `get_state()`, put into an equal mixture by `set_state()`, resumes with the very next batch.
    """

    def __init__(self, iterators: Mapping[str, Any], order: Sequence[str] | None):
        """Takes each task's own iterator, and the task of each update, or None for all of them together."""
        self._iterators, self._order, self._step = iterators, order, 0

    def __iter__(self) -> Iterator[dict[str, HostBatch]]:
        return self

    def __next__(self) -> dict[str, HostBatch]:
        if self._order is not None and self._step == len(self._order):
            raise StopIteration
        names = self._iterators if self._order is None else (self._order[self._step],)
        batches = {name: next(self._iterators[name]) for name in names}
        self._step += 1
        return batches

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"step": self._step, "tasks": {name: it.get_state() for name, it in self._iterators.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was called."""
        self._step = state["step"]
        for name, iterator in self._iterators.items():
            iterator.set_state(state["tasks"][name])
