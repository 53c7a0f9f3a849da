"""Independent tasks in worker processes, where a task whose process crashes or hangs fails alone.

Built on pebble's process pool with spawned interpreters. A task whose process died or whose time ran out is tried once more,
alone, after all the others; then it is reported as failed. Progress inside a task goes through shared counters instead of
a queue, so a worker that is killed while it writes cannot block others. Workers end with their parent.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_handles
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from sgcl_cli.engine.processes import ending, return_freed_memory

R = TypeVar("R")

_POLL = 0.2  # seconds between readings of the counters

_SHARED = 2  # counters that all tasks share, behind their own: tasks that have not ended, and CPUs for all of them
_counters: Any = None  # in a worker: int64, units done and units expected of each task, then the shared ones


@dataclass(frozen=True)
class Lost:
    """A task whose process ended before it returned.

    :ivar reason: how it ended, in words.
    """

    reason: str


@dataclass(frozen=True)
class Result(Generic[R]):
    """How one task ended.

    :ivar key: the task's name.
    :ivar value: what the function returned, if it did.
    :ivar error: what it raised, or ``Lost`` if its process died twice.
    """

    key: str
    value: R | None = None
    error: BaseException | Lost | None = None


class Progress:
    """Inside a task: report the units expected and done, and query its share of the CPUs.

    Picklable; does nothing outside a worker.
    """

    def __init__(self, slot: int) -> None:
        self._slot = slot

    def expect(self, units: int) -> None:
        """Set the number of units of this task, and its count to 0."""
        if _counters is not None:
            _counters[2 * self._slot], _counters[2 * self._slot + 1] = 0, units

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        if _counters is not None:
            _counters[2 * self._slot] += units

    def share(self) -> int:
        """How many CPUs this task may use now: more than one where fewer tasks are left than there are workers."""
        if _counters is None:
            return 1
        left, budget = map(int, _counters[-_SHARED:])
        return max(1, budget // max(1, left))


def run_tasks(
    function: Callable[..., R],
    tasks: Mapping[str, tuple[Any, ...]],
    *,
    workers: int,
    timeout: float | None,
    on_progress: Callable[[int, int], None] = lambda done, expected: None,
) -> Iterator[Result[R]]:
    """Run ``function(progress, *arguments)`` for each task in worker processes; yield results as they come.

    Closing the iterator, or an exception while it waits (Ctrl-C, a signal's), kills the workers at once.

    :param function: importable by name; its first argument is a ``Progress``.
    :param tasks: name -> arguments, picklable.
    :param workers: processes, and CPUs for all of them; 0 counts as 1.
    :param timeout: seconds after which a task is given up; None for no limit.
    :param on_progress: called with the units done and expected so far, over all tasks, several times a second.
    """
    context = multiprocessing.get_context("spawn")
    slots = {key: slot for slot, key in enumerate(tasks)}
    counters = context.RawArray("q", 2 * len(tasks) + _SHARED)

    def attempt(keys: list[str], processes: int, budget: int) -> Iterator[Result[R]]:
        counters[-_SHARED:] = [len(keys), budget]
        with _pool(processes, context, counters) as pool:
            names = {
                pool.schedule(function, args=(Progress(slots[key]), *tasks[key]), timeout=timeout): key for key in keys
            }
            waiting = set(names)
            while waiting:
                finished, waiting = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                counters[-_SHARED] = len(waiting)
                on_progress(sum(counters[0:-_SHARED:2]), sum(counters[1:-_SHARED:2]))
                for future in finished:
                    yield _result(names[future], future, timeout)

    lost: list[str] = []
    for result in attempt(list(tasks), max(1, min(workers, len(tasks))), workers) if tasks else ():
        if isinstance(result.error, Lost):
            lost.append(result.key)
        else:
            yield result
    for key in lost:
        yield from attempt([key], 1, 1)


def _result(key: str, future: Any, timeout: float | None) -> Result[Any]:
    error = future.exception()
    if error is None:
        return Result(key, future.result())
    if isinstance(error, ProcessExpired):
        return Result(key, error=Lost(f"its process died ({ending(error.exitcode)})"))
    if isinstance(error, BrokenProcessPool):
        return Result(key, error=Lost("worker processes could not be started or were lost"))
    if isinstance(error, TimeoutError) and timeout is not None and error.args[1:] == (timeout,):
        return Result(key, error=Lost(f"it took longer than {timeout:g} s"))
    return Result(key, error=error)


@contextmanager
def _pool(workers: int, context: Any, counters: Any) -> Iterator[Any]:
    pool = ProcessPool(max_workers=workers, context=context, initializer=_start, initargs=(counters,))
    try:
        yield pool
        pool.close()
        pool.join()
    except BaseException:
        pool.stop()
        pool.join()
        raise


def _start(counters: Any) -> None:
    """Prepare a worker: shared counters, memory that is returned to the system, a thread that ends it with its parent."""
    global _counters
    _counters = counters
    return_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    wait_for_handles([sentinel])
    os._exit(1)
