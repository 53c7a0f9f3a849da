"""Time that is spent: a training that outlasts it writes its checkpoint and stops, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT = 2.0  # seconds between two requests: one that comes before training listens is lost


class Budget:
    """Minutes from now on; None: no end."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    @property
    def minutes(self) -> float | None:
        """Minutes that are left; None: no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic()) / 60

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Within, ``sgcl pretrain`` is asked to stop by SIGTERM once the time is over; a SIGTERM of others acts as ever."""
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
