"""Threads that work on one slide; decoding and encoding in C libraries release the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def _one() -> int:
    return 1


class Threads:
    """The calling thread and a varying number of helper threads; a context manager.

    :param size: returns the number of threads that may work now, including the caller; called at the start of each ``map``.
    """

    def __init__(self, size: Callable[[], int] = _one) -> None:
        self._size = size
        self._others: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
        """``function`` of each item, in the order of the items; a free thread takes the next one.

        :raises Exception: what ``function`` raises, after all threads have stopped.
        """
        helpers = min(self._size(), len(items)) - 1
        if helpers < 1:
            return [function(item) for item in items]
        made: list[Any] = [None] * len(items)
        waiting = iter(range(len(items)))
        running = [self._executor(helpers).submit(_take, waiting, function, items, made) for _ in range(helpers)]
        try:
            _take(waiting, function, items, made)
        finally:
            failures = [future.exception() for future in running]
        for failure in failures:
            if failure is not None:
                raise failure
        return made

    def _executor(self, helpers: int) -> ThreadPoolExecutor:
        if self._others is None or self._others._max_workers < helpers:
            self.close()
            self._others = ThreadPoolExecutor(helpers)
        return self._others

    def close(self) -> None:
        """End the helper threads."""
        if self._others is not None:
            self._others.shutdown()
            self._others = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


ALONE = Threads()


def _take(waiting: Iterator[int], function: Callable[[Given], Made], items: Sequence[Given], made: list[Made]) -> None:
    """Process the next waiting item until none is left; after a failure no further item is started."""
    for number in waiting:
        try:
            made[number] = function(items[number])
        except BaseException:
            for _ in waiting:
                pass
            raise
