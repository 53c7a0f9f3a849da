"""Signals that a loop checks between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """While entered, SIGINT and SIGTERM are remembered instead of raised; ``signum`` is the first one, or None.

    A second signal of the same kind is handled as before, so that a user can force an exit. Outside the main thread, where
    Python allows no handlers, nothing is intercepted.

    :param settle: seconds in which a second signal still counts as the first; a launcher repeats what a terminal sent to all.
    """

    def __init__(self, settle: float = 0.0) -> None:
        self.signum: int | None = None
        self._settle = settle
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._first = number, time.monotonic()
        elif time.monotonic() - self._first >= self._settle:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
