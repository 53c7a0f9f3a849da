"""Worker processes: forking, signals, exit codes in words; and the CPUs of this process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 4 * 2**20  # bytes
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MEANING = {
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    9: "perhaps out of memory",
    11: "segmentation fault",
}


def forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that was forked to run ``target(*arguments)`` and ignores SIGINT and SIGTERM from its first instruction.

    Signals to a process group are handled by the main process, which finishes its work and then ends its workers. So the caller
    must kill the process, and the process must end by itself when its parent has ended.

    A forked process has CUDA's state but none of its threads: ``target`` must touch no CUDA.
    """
    with _held_back() as before:
        process = multiprocessing.get_context("fork").Process(
            target=_run, args=(before, target, arguments), daemon=True
        )
        process.start()
    return process


def _run(mask: set[int], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    target(*arguments)


@contextmanager
def _held_back() -> Iterator[set[int]]:
    """Block the signals within the context; yields the previous mask."""
    before: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def return_freed_memory() -> None:
    """Make glibc return the memory of large arrays to the system when they are freed.

    By default it keeps blocks of up to 32 MiB for later allocations, which fragment them.
    """
    with suppress(OSError, AttributeError, ValueError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def ending(code: int | None) -> str:
    """How a process ended, in words, from the exit code as ``multiprocessing`` has it: negative for a signal."""
    if code is None or code >= 0:
        return f"exit code {code}"
    return ", ".join([f"signal {-code}", *([_MEANING[-code]] if -code in _MEANING else [])])
