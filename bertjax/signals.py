"""SIGTERM, SIGINT and a scheduler's notice: a run that is asked to stop finishes its update and saves."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 75
"""Of a process that stopped when asked and saved: EX_TEMPFAIL, "try again"; the same command goes on."""


class Interrupted(KeyboardInterrupt):
    """A run stopped when asked, and its state is saved; calling it again goes on from there."""


class Abandoned(BaseException):
    """Work inside `Interruption.abandons` is given up; no `except Exception` on the way may keep it."""


class Interruption:
    """Notes SIGTERM, and the first SIGINT (a notebook's interrupt is one); a second SIGINT acts as if nobody noted it.

    Signals reach Python's main thread alone: in any other, and where a signal is ignored, it does nothing.

    Attributes:
      name: of the signal that came, or None.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.name: str | None = None
        self._signals = signals
        self._previous: dict[signal.Signals, Any] = {}
        self._is_abandoning = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def abandons(self) -> Iterator[None]:
        """Within, a signal raises `Abandoned` at once: for work that can be done again."""
        self._is_abandoning = True
        try:
            if self.name:
                raise Abandoned
            yield
        finally:
            self._is_abandoning = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        # Not print: the signal may have come in the midst of one.
        os.write(2, f"\n{self.name}: finishing this update, then saving; Ctrl-C quits at once\n".encode())
        if self._is_abandoning:
            raise Abandoned
