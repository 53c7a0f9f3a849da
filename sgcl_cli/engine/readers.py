"""Worker processes that read slides and return full batches of patches; they persist over all slides of a run.

A worker reads one slide at a time and puts its patches into memory shared with the main process, until that is full; then it
waits. Each worker has its own memory and pipe, so if it dies or hangs, only the slide that it was reading fails.
A batch has patches of one slide, in the order in which the slide is read: batches do not depend on the other slides.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.engine.decoders import Slots
from sgcl_cli.engine.loader import Batch, Failed, Missing
from sgcl_cli.engine.processes import ending, forked
from sgcl_cli.errors import ArtefactError, SgclError

Task = TypeVar("Task")
Pixels = NDArray[np.uint8]
_Part = tuple[list[int], Pixels]  # global indices, and their patches
Read = Callable[[Task, Callable[[], int]], Iterator[tuple[int, "Pixels | SgclError"]]]

_PART = 16  # patches that are transferred at once
_LEAST = 4  # fewest parts of a worker
_AHEAD = 2  # batches that all workers together may be ahead
_HELD = 2  # batches that remain valid: the last two returned
_PATIENCE = 10.0  # seconds for a killed process to end; one that waits for a disk that hangs may never end
_LONGEST_WAIT = 3600.0  # seconds; what waits for pipes takes some weeks at most


class WorkerLostError(ArtefactError):
    """The process that read a slide died, or was killed because it returned nothing for too long."""


@dataclass(frozen=True)
class Reading(Generic[Task]):
    """A slide to be read.

    :ivar task: the argument of ``Readers.read``.
    :ivar start: global index of its first patch.
    :ivar count: number of its patches.
    """

    task: Task
    start: int
    count: int


@dataclass(eq=False)
class _Worker(Generic[Task]):
    """A worker as the main process sees it.

    :ivar pixels: its shared memory, (parts, _PART, size, size, 3).
    :ivar given: its slides, the current one first.
    :ivar last_message: time of its last message, or of its first slide.
    """

    process: Any
    pipe: Connection
    pixels: Pixels
    given: deque[Reading[Task]] = field(default_factory=deque)
    last_message: float = 0.0


@dataclass
class _Begun:
    """The batch of a slide that is being filled.

    :ivar slot: its buffer.
    :ivar filled: number of patches in it.
    :ivar settled: the same with the patches that cannot be read.
    """

    slot: int
    filled: int = 0
    settled: int = 0


@dataclass
class Readers(Generic[Task]):
    """Processes that read slides; a context manager.

    :ivar read: yields the patches of a task, uint8 (size, size, 3), each with its row in the slide, or the error of a patch that
        cannot be read. Its second argument returns how many threads it may use now. If it raises an ``SgclError``, the slide
        has failed.
    :ivar size: side of a patch in pixels.
    :ivar batch: patches in a batch; those that cannot be read count, and a slide's last batch may be smaller.
    :ivar workers: processes, and threads for all of them.
    :ivar pin: whether batches are placed in page-locked memory.
    :ivar timeout: seconds without a patch after which a slide is given up; None for no limit. The time in which a worker waits
        for free memory does not count.
    """

    read: Read[Task]
    size: int
    batch: int
    workers: int
    pin: bool
    timeout: float | None = None
    _running: list[_Worker[Task]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._left = RawValue("q", 0)
        self._parts = max(_LEAST, math.ceil(_AHEAD * self.batch / (_PART * self.workers)))
        self._slots = Slots(self.workers + _HELD, self.batch, self.size)
        self._free = deque(range(self.workers + _HELD))
        if self.pin:
            self._slots.pin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._running:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._running:
            worker.process.join(_PATIENCE)
        self._running.clear()
        self._slots.close()

    def batches(self, readings: Sequence[Reading[Task]]) -> Iterator[Batch | Missing | Failed]:
        """The patches of all slides; a batch is valid until two more were requested.

        A slide that fails, also because its worker died or timed out (``WorkerLostError``), is reported once.
        """
        waiting = deque(readings)
        self._left.value = len(waiting)
        while len(self._running) < min(self.workers, len(waiting)):
            self._running.append(self._start())
        for worker in self._running:
            if waiting:
                self._give(worker, waiting.popleft())
        for worker in self._running:
            self._top_up(worker, waiting)
        begun: dict[int, _Begun] = {}  # by the slide's start
        held: deque[int] = deque()
        for reading, arrived in self._arrivals(waiting):
            if isinstance(arrived, Failed):
                if (abandoned := begun.pop(reading.start, None)) is not None:
                    self._free.append(abandoned.slot)
                yield arrived
                continue
            if isinstance(arrived, Missing):
                yield arrived
            for batch in self._filled(begun, reading, arrived):
                yield Batch(self._slots.tensor[batch.slot, : batch.filled], self._index(batch))
                held.append(batch.slot)
                while len(held) >= _HELD:
                    self._free.append(held.popleft())

    def _filled(
        self, begun: dict[int, _Begun], reading: Reading[Task], arrived: _Part | Missing | None
    ) -> Iterator[_Begun]:
        """Fill the batch of a slide; yields it when it is full, or when the slide has ended (None)."""
        rows, pixels = arrived if isinstance(arrived, tuple) else ([], ())
        for number, patch in zip(rows, pixels, strict=False):
            batch = self._batch_of(begun, reading)
            self._slots.pixels[batch.slot, batch.filled] = patch
            self._slots.index[batch.slot, batch.filled] = number
            batch.filled += 1
            yield from self._settled(begun, reading)
        if isinstance(arrived, Missing):
            self._batch_of(begun, reading)
            yield from self._settled(begun, reading)
        if arrived is None and reading.start in begun:
            yield from self._ended(begun, reading)

    def _batch_of(self, begun: dict[int, _Begun], reading: Reading[Task]) -> _Begun:
        if reading.start not in begun:
            begun[reading.start] = _Begun(self._free.popleft())
        return begun[reading.start]

    def _settled(self, begun: dict[int, _Begun], reading: Reading[Task]) -> Iterator[_Begun]:
        begun[reading.start].settled += 1
        if begun[reading.start].settled == self.batch:
            yield from self._ended(begun, reading)

    def _ended(self, begun: dict[int, _Begun], reading: Reading[Task]) -> Iterator[_Begun]:
        batch = begun.pop(reading.start)
        if batch.filled:
            yield batch
        else:
            self._free.append(batch.slot)

    def _index(self, batch: _Begun) -> NDArray[np.int64]:
        return self._slots.index[batch.slot, : batch.filled].copy()

    def _arrivals(
        self, waiting: deque[Reading[Task]]
    ) -> Iterator[tuple[Reading[Task], _Part | Missing | Failed | None]]:
        """What arrives, with its slide; None at a slide's end."""
        while busy := {worker.pipe: worker for worker in self._running if worker.given}:
            for pipe in wait([*busy], self._until_silent(busy.values())):
                worker = busy[pipe]  # type: ignore[index]
                yield from self._message(worker, waiting)
                worker.last_message = time.monotonic()
            for worker in busy.values():
                if worker in self._running and worker.given and self._silent(worker):
                    worker.process.kill()
                    yield worker.given[0], self._lost(worker, self._gave_nothing(), waiting)

    def _message(
        self, worker: _Worker[Task], waiting: deque[Reading[Task]]
    ) -> Iterator[tuple[Reading[Task], _Part | Missing | Failed | None]]:
        reading = worker.given[0]
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            yield reading, self._lost(worker, self._death_of(worker), waiting)
            return
        if kind == "part":
            part, rows = content
            yield reading, ([reading.start + row for row in rows], worker.pixels[part])
            _send(worker.pipe, part)
        elif kind == "missing":
            row, error = content
            yield reading, Missing(reading.start + row, error)
        else:
            yield reading, None if content is None else self._failed(reading, content)
            self._left.value -= 1
            worker.given.popleft()
            self._top_up(worker, waiting)

    def _until_silent(self, workers: Iterable[_Worker[Task]]) -> float | None:
        """Seconds until the first worker times out, at most an hour."""
        if self.timeout is None:
            return None
        left = min(worker.last_message for worker in workers) + self.timeout - time.monotonic()
        return min(max(0.0, left), _LONGEST_WAIT)

    def _silent(self, worker: _Worker[Task]) -> bool:
        """Whether a worker has timed out, and no message of it waits in its pipe."""
        return (
            self.timeout is not None
            and time.monotonic() - worker.last_message >= self.timeout
            and not worker.pipe.poll()
        )

    def _lost(self, worker: _Worker[Task], error: WorkerLostError, waiting: deque[Reading[Task]]) -> Failed:
        """Fail the slide that a lost worker was reading, and give its other slides to other workers."""
        worker.process.join(_PATIENCE)
        worker.pipe.close()
        reading = worker.given.popleft()
        waiting.extendleft(reversed(worker.given))
        self._left.value -= 1
        self._running[self._running.index(worker)] = fresh = self._start()
        self._top_up(fresh, waiting)
        return self._failed(reading, error)

    def _top_up(self, worker: _Worker[Task], waiting: deque[Reading[Task]]) -> None:
        """Give a worker enough slides to stay busy until its next message."""
        while waiting and sum(reading.count for reading in worker.given) < _AHEAD * self.batch:
            self._give(worker, waiting.popleft())

    def _give(self, worker: _Worker[Task], reading: Reading[Task]) -> None:
        if not worker.given:
            worker.last_message = time.monotonic()
        worker.given.append(reading)
        _send(worker.pipe, ("read", reading.task))

    def _failed(self, reading: Reading[Task], error: SgclError) -> Failed:
        return Failed(np.arange(reading.start, reading.start + reading.count), error)

    def _death_of(self, worker: _Worker[Task]) -> WorkerLostError:
        worker.process.join(_PATIENCE)
        return WorkerLostError(
            f"the process that read it died ({ending(worker.process.exitcode)})",
            "the file may be damaged, or memory was short: use fewer --workers",
        )

    def _gave_nothing(self) -> WorkerLostError:
        return WorkerLostError(
            f"nothing was read of it for {self.timeout:g} s",
            "the file may be damaged, or its disk slow: a longer --slide-timeout waits longer",
        )

    def _start(self) -> _Worker[Task]:
        shape = (self._parts, _PART, self.size, self.size, 3)
        pixels = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
        mine, theirs = multiprocessing.Pipe()
        of_others = [mine, *(worker.pipe for worker in self._running)]
        process = forked(_work, theirs, of_others, pixels, self.read, self._share)
        theirs.close()
        return _Worker(process, mine, pixels)

    def _share(self) -> int:
        """Threads that a worker may use: more than one where fewer slides are left than there are workers."""
        return max(1, self.workers // max(1, int(self._left.value)))


def _send(pipe: Connection, message: object) -> None:
    """Send to a worker; a closed pipe is detected on receive."""
    with suppress(OSError):
        pipe.send(message)


def _work(
    pipe: Connection, of_others: Sequence[Connection], pixels: Pixels, read: Read[Any], share: Callable[[], int]
) -> None:
    """In a worker: read slide after slide until the pipe closes."""
    for other in of_others:
        other.close()
    _die_with_parent()
    with suppress(EOFError, OSError):
        _WorkerEnd(pipe, pixels).serve(read, share)


class _WorkerEnd:
    """A worker's end of the pipe: slides and emptied parts come in, filled parts go out."""

    def __init__(self, pipe: Connection, pixels: Pixels) -> None:
        self._pipe, self._pixels = pipe, pixels
        self._free = deque(range(len(pixels)))
        self._tasks: deque[Any] = deque()

    def serve(self, read: Read[Any], share: Callable[[], int]) -> None:
        while True:
            while not self._tasks:
                self._receive()
            error: SgclError | None = None
            try:
                self._send_patches(read(self._tasks.popleft(), share))
            except SgclError as known:
                error = known
            except (EOFError, OSError):
                raise
            except Exception as unknown:
                error = ArtefactError(f"unexpected {type(unknown).__name__}: {unknown}", "please report this defect")
            self._pipe.send(("end", error))

    def _receive(self) -> None:
        message = self._pipe.recv()
        if isinstance(message, int):
            self._free.append(message)
        else:
            self._tasks.append(message[1])

    def _send_patches(self, patches: Iterator[tuple[int, Pixels | SgclError]]) -> None:
        rows: list[int] = []
        for row, made in patches:
            if isinstance(made, SgclError):
                if rows:  # what comes before it is sent before it
                    self._pipe.send(("part", (self._free.popleft(), rows)))
                    rows = []
                self._pipe.send(("missing", (row, made)))
                continue
            while not self._free:
                self._receive()
            self._pixels[self._free[0], len(rows)] = made
            rows.append(row)
            if len(rows) == _PART:
                self._pipe.send(("part", (self._free.popleft(), rows)))
                rows = []
        if rows:
            self._pipe.send(("part", (self._free.popleft(), rows)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
