"""A time limit; a training that reaches it writes its checkpoint and stops, and the next run resumes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT = 2.0  # seconds between two signals: one that arrives before training handles it is lost


class Budget:
    """A limit in minutes from now on; None for no limit."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def spent(self) -> bool:
        """Whether the limit is reached."""
        return self._end is not None and time.monotonic() >= self._end

    @property
    def minutes(self) -> float | None:
        """Remaining minutes; None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic()) / 60

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """A context that stops ``sgcl pretrain`` by SIGTERM at the limit; a SIGTERM from elsewhere has its usual effect."""
        if self._end is None:
            yield
            return
        before = signal.getsignal(signal.SIGTERM)

        def pass_over(number: int, frame: FrameType | None) -> None:
            if not self.spent:
                signal.signal(signal.SIGTERM, before)
                signal.raise_signal(number)

        closed = threading.Event()
        signal.signal(signal.SIGTERM, pass_over)
        watch = threading.Thread(target=self._ask, args=(closed,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            closed.set()
            watch.join()
            signal.signal(signal.SIGTERM, before)

    def _ask(self, closed: threading.Event) -> None:
        assert self._end is not None
        closed.wait(max(0.0, self._end - time.monotonic()))
        while not closed.wait(_REPEAT if self.spent else 0.05):
            os.kill(os.getpid(), signal.SIGTERM)
