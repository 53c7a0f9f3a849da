"""Processes that decode patches into memory that they share with the main process.

Each has a pipe of its own: the parts of batches that it is to decode go in, in order, and for each part comes back whether that
went well. Nothing else is shared, no queue and no lock, so a process that is killed at any moment holds up nobody; what it was
at is known, and the parts behind it go to another.

They are forked, so they must touch no CUDA, and torch's threads must not run in them. Start them early: what the main process
has in memory at that time stays there until they end. They ignore SIGINT and SIGTERM, which concern the main process; they end
when they are closed, and by themselves within a second or so when the main process is gone, however it went.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import struct
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.engine.processes import ending, forked
from sgcl_cli.errors import ArtefactError, TrainingError

_PATIENCE = 10.0  # seconds for a killed process to be gone; one that waits for a dead disk may never be
_LOOK = 1.0  # seconds between looks at whether the parent still lives
_PART = struct.Struct("=3q")  # slot, start, stop


class PixelSource(Protocol):
    """Square patches of one ``size`` in pixels that can be decoded into memory that is given."""

    @property
    def size(self) -> int: ...

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None: ...


class DecoderLostError(ArtefactError):
    """A process that decoded patches died."""


class Slots:
    """Room for batches in anonymous memory that forked processes share: ``pixels`` uint8 (slots, batch, size, size, 3) and
    ``index`` int64 (slots, batch).

    It is no file in /dev/shm, which containers keep small.
    """

    def __init__(self, slots: int, batch: int, size: int) -> None:
        shape = (slots, batch, size, size, 3)
        self.pixels: NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
        self.index: NDArray[np.int64] = np.frombuffer(mmap.mmap(-1, 8 * slots * batch), np.int64).reshape(slots, batch)
        self.tensor = torch.from_numpy(self.pixels)
        self._pinned = False

    def pin(self) -> None:
        """Page-lock the pixels for asynchronous copies to a GPU, until ``close``.

        :raises TrainingError: CUDA refuses.
        """
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        try:
            torch.cuda.check_error(cudart.cudaHostRegister(self.tensor.data_ptr(), self.tensor.nbytes, 0))
        except RuntimeError as error:
            size = self.tensor.nbytes / 2**20
            raise TrainingError(
                f"CUDA cannot page-lock {size:.0f} MiB for decoded patches: {error}",
                "use fewer --workers, or a smaller --batch",
            ) from error
        self._pinned = True

    def close(self) -> None:
        """Give page-locked memory back once the GPU has copied from it; the pixels stay as they are."""
        if not self._pinned:
            return
        self._pinned = False
        with suppress(RuntimeError):  # of a device that failed before, which has been told
            torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(self.tensor.data_ptr())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class SlotRange:
    """The places ``start`` to ``stop`` of a slot, whose patches are to be decoded; ``batch`` is its owner's number for it."""

    batch: int
    slot: int
    start: int
    stop: int


@dataclass(eq=False)
class _Decoder:
    """A process as the main process sees it, with the parts that it was given and has not answered."""

    process: BaseProcess
    pipe: Connection
    parts: deque[SlotRange] = field(default_factory=deque)


class Decoders:
    """Processes that decode parts of batches, each as its turn comes.

    One that dies costs the part that it was at (the next one, where it was at none): the answer is a ``DecoderLostError``.
    Another process takes its place.

    :param count: processes; they start now.
    """

    def __init__(self, source: PixelSource, slots: Slots, count: int) -> None:
        self._source, self._slots, self._count = source, slots, count
        self._decoders: list[_Decoder] = []
        self._answers: deque[tuple[SlotRange, Exception | None]] = deque()
        # multiprocessing joins, at exit, what still lives: that must be dead by then, whoever forgot to close
        self._end = util.Finalize(self, _kill, (self._decoders,), exitpriority=100)
        self._complete()

    def close(self) -> None:
        """Kill the processes. They hold nothing that could be lost."""
        self._count = 0
        self._answers.clear()
        _kill(self._decoders)
        self._end.cancel()

    def give(self, part: SlotRange) -> None:
        """Have a part decoded, whose patches stand in ``index`` of its slot; the process with the fewest parts takes it."""
        self._complete()
        if not self._decoders:
            raise ValueError("the decoding processes were closed")
        decoder = min(self._decoders, key=lambda decoder: len(decoder.parts))
        decoder.parts.append(part)
        try:
            decoder.pipe.send_bytes(_PART.pack(part.slot, part.start, part.stop))
        except OSError:
            self._lost(decoder)

    def answer(self) -> tuple[SlotRange, Exception | None]:
        """The next part that is done, and what went wrong in it; waits for it."""
        while not self._answers:
            busy = {decoder.pipe: decoder for decoder in self._decoders if decoder.parts}
            for pipe in wait([*busy]):
                self._hear(busy[pipe])  # type: ignore[index]
        return self._answers.popleft()

    def drain(self) -> None:
        """Wait for all parts that were given and forget their answers; then every slot is free."""
        while any(decoder.parts for decoder in self._decoders):
            self.answer()
        self._answers.clear()

    def _hear(self, decoder: _Decoder) -> None:
        try:
            message = decoder.pipe.recv_bytes()
        except (EOFError, OSError):
            self._lost(decoder)
        else:
            self._answers.append((decoder.parts.popleft(), pickle.loads(message) if message else None))

    def _lost(self, decoder: _Decoder) -> None:
        """Tell what a dead process cost; others get what else it was given."""
        with suppress(EOFError, OSError):
            while len(decoder.parts) and decoder.pipe.poll():
                message = decoder.pipe.recv_bytes()
                self._answers.append((decoder.parts.popleft(), pickle.loads(message) if message else None))
        decoder.process.join(_PATIENCE)
        decoder.pipe.close()
        self._decoders.remove(decoder)
        error = DecoderLostError(
            f"a process that decodes patches died ({ending(decoder.process.exitcode)})",
            "if memory was short, use fewer --workers; --workers 0 decodes without such processes; then run the same "
            "command again",
        )
        if decoder.parts:
            self._answers.append((decoder.parts.popleft(), error))
        for part in decoder.parts:
            self.give(part)

    def _complete(self) -> None:
        while len(self._decoders) < self._count:
            mine, theirs = Pipe()
            not_its_own = [mine, *(decoder.pipe for decoder in self._decoders)]
            process = forked(_work, theirs, not_its_own, self._source, self._slots, os.getpid())
            self._decoders.append(_Decoder(process, mine))
            theirs.close()


def _kill(decoders: list[_Decoder]) -> None:
    for decoder in decoders:
        decoder.process.kill()
    for decoder in decoders:
        decoder.process.join(_PATIENCE)
        decoder.pipe.close()
    decoders.clear()


def _work(pipe: Connection, not_its_own: Sequence[Connection], source: PixelSource, slots: Slots, parent: int) -> None:
    """In a worker: decode part after part until the pipe closes or the parent is gone."""
    torch.set_num_threads(1)
    for other in not_its_own:
        other.close()
    with suppress(EOFError, OSError):
        for slot, start, stop in _parts(pipe, parent):
            error = decode(source, slots.index[slot, start:stop], slots.pixels[slot, start:stop])
            pipe.send_bytes(b"" if error is None else _pickled(error))


def _parts(pipe: Connection, parent: int) -> Iterator[tuple[int, int, int]]:
    while True:
        while not pipe.poll(_LOOK):
            if os.getppid() != parent:
                return
        yield _PART.unpack(pipe.recv_bytes())


def decode(source: PixelSource, index: NDArray[np.int64], pixels: NDArray[np.uint8]) -> Exception | None:
    """Decode patches into ``pixels``, up to the first that fails; returns why it does."""
    try:
        for place, i in enumerate(index.tolist()):
            source.into(i, pixels[place])
    except Exception as error:
        return error
    return None


def _pickled(error: Exception) -> bytes:
    """An error on its way to the main process; one that nobody foresaw takes its traceback along."""
    if not isinstance(error, ArtefactError):
        error.add_note("".join(["in a process that decodes patches:\n", *traceback.format_exception(error)]))
    try:
        return pickle.dumps(error)
    except Exception:
        return pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
