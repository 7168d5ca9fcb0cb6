"""Handling of SIGINT and SIGTERM: a run that receives one finishes its update, saves and stops."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 75
"""Exit status of a run that stopped on a signal and can be resumed (EX_TEMPFAIL, "try again")."""


class Interrupted(KeyboardInterrupt):
    """The run stopped on a signal, and its state is saved. Running it again resumes it."""


class Abandoned(BaseException):
    """A signal arrived inside `Interruption.raise_at_once`. A BaseException, so that no `except Exception` stops it."""


class Interruption:
    """A context that records SIGTERM and the first SIGINT, which a notebook's stop button sends too.

    A second SIGINT raises KeyboardInterrupt as usual. Python delivers signals only to the main thread: in other
    threads, and for ignored signals, the context does nothing.

    Attributes:
      name: name of the signal received, or None.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.name: str | None = None
        self._signals = signals
        self._previous: dict[signal.Signals, Any] = {}
        self._raises_at_once = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """Inside this context a signal raises `Abandoned` at once, for work that can be repeated."""
        self._raises_at_once = True
        try:
            if self.name:
                raise Abandoned
            yield
        finally:
            self._raises_at_once = False

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        # Not `print`: the signal may have interrupted one.
        os.write(2, f"\n{self.name}: finishing this update, then saving; Ctrl-C quits at once\n".encode())
        if self._raises_at_once:
            raise Abandoned
