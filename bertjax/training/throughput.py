"""Means of the scalars that training steps return, and the steps' speed."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from bertjax.training.nonfinite import SKIPPED


class Meter:
    """Means over the updates since the last reading, and the run's clock.

    Compilation and evaluation happen in `paused`: they count in `seconds` but not in rates.
    """

    def __init__(self) -> None:
        self._created = time.perf_counter()
        self._earlier = 0.0
        self._first_step: float | None = None
        self._window_rates: list[float] = []
        self._busy = 0.0
        self._examples = self._tokens = 0
        self.open_window()

    def open_window(self) -> None:
        """Discards everything since the last reading, such as work before the first step."""
        self._means: list[Mapping[str, jax.Array | float]] = []
        self._window_examples = self._window_tokens = 0
        self._resumed = 0
        self._since, self._paused = time.perf_counter(), 0.0

    def window(self) -> list[dict[str, float]]:
        """The values that steps returned since the last reading, as JSON."""
        return [{name: float(value) for name, value in step.items()} for step in jax.device_get(self._means)]

    def resume(self, seconds: float, window: Sequence[Mapping[str, float]]) -> None:
        """Restores the window and the seconds of an earlier process of the same run."""
        self._earlier = seconds
        self.open_window()
        self._means = list(window)
        self._resumed = len(self._means)

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, earlier processes included."""
        return self._earlier + time.perf_counter() - self._created

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside from rates."""
        jax.block_until_ready(self._means[-1:])
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def count(self, batches: Iterable[Mapping[str, np.ndarray]], means: Mapping[str, jax.Array]) -> None:
        """Records a step that was started: its batches and the scalars it returns."""
        self._means.append(means)
        for batch in batches:
            self._window_examples += int(batch["valid"].sum())
            if "attention_mask" in batch:  # a frozen encoder's pooled states have no tokens
                self._window_tokens += int(batch["attention_mask"][batch["valid"]].sum())
        if self._first_step is None:
            jax.block_until_ready(means)
            self._first_step = time.perf_counter() - self._created

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Closes the window.

        Returns:
          Two dictionaries. First, the mean of each scalar over the steps that returned it and were not skipped, and
          the number "skipped" if any were. Second, seconds per step and examples per second, of this process alone.
        """
        window, seconds = self.window(), time.perf_counter() - self._since - self._paused
        made = [step for step in window if not step.get(SKIPPED)]
        names = dict.fromkeys(name for step in made for name in step if name != SKIPPED)
        values = {name: float(np.mean([step[name] for step in made if name in step])) for name in names}
        if len(made) < len(window):
            values[SKIPPED] = float(len(window) - len(made))
        steps = len(window) - self._resumed
        self._window_rates.append(seconds / steps)
        self._busy += seconds
        self._examples += self._window_examples
        self._tokens += self._window_tokens
        timing = {"step_seconds": seconds / steps, "examples_per_second": self._window_examples / seconds}
        self.open_window()
        return values, timing

    def summary(self) -> dict[str, float | None]:
        """The run's timing for result.json; rates are None if this process made no step."""
        ran = self._busy > 0
        return {
            "seconds": self.seconds,
            "seconds_to_first_step": self._first_step,
            "step_seconds_median": statistics.median(self._window_rates) if ran else None,
            "examples_per_second": self._examples / self._busy if ran else None,
            "real_tokens_per_second": self._tokens / self._busy if ran else None,
        }
