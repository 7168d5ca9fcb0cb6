"""Updates whose loss or gradient is not finite are skipped; too many in a row end a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError

SKIPPED = "skipped"
State = TypeVar("State")


def update_if_finite(
    state: State, update: Callable[[], State], means: Mapping[str, jax.Array]
) -> tuple[State, dict[str, jax.Array]]:
    """The state after an update, or the state unchanged if a scalar of the update is not finite.

    Args:
      state: The state before the update, a tree of arrays.
      update: Returns the state after it. It runs only if needed: selecting between two states would cost a tenth of a
        step.
      means: float32 [] each, the same on every replica; the loss and the gradient's norm are among them.

    Returns:
      The state, and `means` with "skipped": 1 if one of them is infinite or NaN, else 0.
    """
    is_finite = jnp.all(jnp.isfinite(jnp.stack(list(means.values()))))
    return jax.lax.cond(is_finite, update, lambda: state), {**means, SKIPPED: 1 - is_finite.astype(jnp.float32)}


class SkippedSteps:
    """Counts the updates that `update_if_finite` skipped.

    Attributes:
      total: Skipped updates of the run.
      in_row: Skipped updates since the last one that was applied.
    """

    def __init__(self, max_in_row: int, ids: Mapping[str, Sequence[str]]):
        """Allows `max_in_row` skipped updates in a row; names rows by `ids`, by task."""
        self.total = self.in_row = 0
        self._max_in_row, self._ids = max_in_row, ids
        self._unread: list[tuple[int, dict[str, np.ndarray], Mapping[str, jax.Array]]] = []

    def resume(self, counts: Mapping[str, int]) -> None:
        """Restores the `counts` of an earlier call."""
        self.total, self.in_row = counts["total"], counts["in_row"]

    def counts(self) -> dict[str, int]:
        """The counts, as JSON."""
        return {"total": self.total, "in_row": self.in_row}

    def count(self, step: int, batches: Mapping[str, Mapping[str, np.ndarray]], means: Mapping[str, jax.Array]) -> None:
        """Records a step that was started, without waiting for it."""
        rows = {name: batch["index"][batch["valid"]] for name, batch in batches.items()}
        self._unread.append((step, rows, means))

    def report(self) -> list[str]:
        """Waits for the recorded steps; returns a line for each that was skipped.

        Raises:
          UserError: Too many were skipped in a row.
        """
        unread, self._unread = self._unread, []
        lines = []
        for step, rows, means in unread:
            values = {name: float(x) for name, x in jax.device_get(means).items()}
            if not values.pop(SKIPPED):
                self.in_row = 0
                continue
            self.total += 1
            self.in_row += 1
            found = ", ".join(f"{name} {x}" for name, x in values.items() if not math.isfinite(x))
            if self.in_row > self._max_in_row:
                raise UserError(
                    f"training diverged: {self.in_row} updates in a row, up to {step}, had a loss or gradient that is "
                    f"not finite (the last: {found}) and were skipped; the last was on the training rows "
                    f"{self._named(rows)}; inspect these, or use another --workdir with a lower --config.learning_rate "
                    "or SMART weight or radius; earlier checkpoints are kept"
                )
            lines.append(f"warning: update {step} is skipped: {found}")
        return lines

    def _named(self, rows: Mapping[str, np.ndarray]) -> str:
        found = []
        for name, places in rows.items():
            ids = self._ids.get(name)
            found.append(", ".join(str(place) if ids is None else ids[place] for place in places))
        return found[0] if len(rows) == 1 else "; ".join(f"of {n} {text}" for n, text in zip(rows, found, strict=True))
