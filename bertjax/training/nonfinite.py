"""Updates that are left out: one whose loss or gradient is not finite changes nothing, too many in a row end a run."""

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
    """The state after an update, or as it was where a scalar of the update is not finite.

    Args:
      state: before; a tree of arrays.
      update: gives the state after, alike; run only if it is wanted, as a choice between two states would cost a tenth
        of a step.
      means: float32 [] each, the loss and the gradient's norm among them, the same on every replica.

    Returns:
      The state; and `means` with "skipped", 0 or, where one of them is infinite or no number, 1.
    """
    is_finite = jnp.all(jnp.isfinite(jnp.stack(list(means.values()))))
    return jax.lax.cond(is_finite, update, lambda: state), {**means, SKIPPED: 1 - is_finite.astype(jnp.float32)}


class SkippedSteps:
    """Counts the updates that `update_if_finite` left out.

    Attributes:
      total: of the run.
      in_row: those since the last update that was made.
    """

    def __init__(self, most: int, ids: Mapping[str, Sequence[str]]):
        """Takes how many in a row are let pass, and the names of the rows by task, where they have any."""
        self.total = self.in_row = 0
        self._most, self._ids = most, ids
        self._unread: list[tuple[int, dict[str, np.ndarray], Mapping[str, jax.Array]]] = []

    def resume(self, counts: Mapping[str, int]) -> None:
        """Goes on from the `counts` of an earlier call."""
        self.total, self.in_row = counts["total"], counts["in_row"]

    def counts(self) -> dict[str, int]:
        """Where it stands, as JSON."""
        return {"total": self.total, "in_row": self.in_row}

    def count(self, step: int, batches: Mapping[str, Mapping[str, np.ndarray]], means: Mapping[str, jax.Array]) -> None:
        """Takes in a step that was started; nothing is waited for."""
        rows = {name: batch["index"][batch["valid"]] for name, batch in batches.items()}
        self._unread.append((step, rows, means))

    def check(self) -> list[str]:
        """Waits for the steps so far; returns a line for each that was left out.

        Raises:
          UserError: too many in a row.
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
            if self.in_row > self._most:
                raise UserError(
                    f"training diverged: {self.in_row} updates in a row, to {step}, had a loss or gradient that is not "
                    f"finite (the last: {found}) and were left out; the last took the training rows "
                    f"{self._named(rows)}; look at these, or lower --config.learning_rate, or SMART's weight or radius "
                    "in another --workdir; checkpoints from before are kept"
                )
            lines.append(f"warning: update {step} is left out: {found}")
        return lines

    def _named(self, rows: Mapping[str, np.ndarray]) -> str:
        found = []
        for name, places in rows.items():
            ids = self._ids.get(name)
            found.append(", ".join(str(place) if ids is None else ids[place] for place in places))
        return found[0] if len(rows) == 1 else "; ".join(f"of {n} {text}" for n, text in zip(rows, found, strict=True))
