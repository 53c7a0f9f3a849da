"""Processes that decode patches into memory that they share with the main process.

Each has its own pipe: it receives parts of batches to decode, in order, and sends for each part whether that succeeded. No queue
and no lock is shared, so a process that is killed at any moment blocks no other; the part that it was decoding is known, and the
parts after it are given to another process.

They are forked, so they must touch no CUDA, and torch's threads must not run in them. Start them early: memory
that the main process has at that time stays allocated until they end. They ignore SIGINT and SIGTERM, which the main process
handles; they end when they are closed, and by themselves within about a second after the main process has ended in any way.
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

_PATIENCE = 10.0  # seconds for a killed process to end; one that waits for a disk that hangs may never end
_LOOK = 1.0  # seconds between checks that the parent still lives
_PART = struct.Struct("=3q")  # slot, start, stop


class PixelSource(Protocol):
    """Square patches of ``size`` pixels that can be decoded into a given array."""

    @property
    def size(self) -> int: ...

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None: ...


class DecoderLostError(ArtefactError):
    """A process that decoded patches died."""


class Slots:
    """Buffers for batches in anonymous memory that is shared with forked processes, not in /dev/shm, which containers keep small.

    :ivar pixels: uint8 (slots, batch, size, size, 3).
    :ivar index: int64 (slots, batch).
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
        """Unlock page-locked memory once the GPU has copied from it; the pixels are kept."""
        if not self._pinned:
            return
        self._pinned = False
        with suppress(RuntimeError):  # of a device whose failure was reported before
            torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(self.tensor.data_ptr())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class SlotRange:
    """A part of a batch to be decoded.

    :ivar batch: number of the batch.
    :ivar slot: its buffer.
    :ivar start: first position in the batch.
    :ivar stop: the position after the last.
    """

    batch: int
    slot: int
    start: int
    stop: int


@dataclass(eq=False)
class _Decoder:
    """A process as the main process sees it, with the parts that it has not answered yet."""

    process: BaseProcess
    pipe: Connection
    parts: deque[SlotRange] = field(default_factory=deque)


class Decoders:
    """Processes that decode parts of batches.

    If one dies, the answer for the part that it was decoding (or the next one) is a ``DecoderLostError``, and another process is
    started in its place.

    :param count: processes; they start now.
    """

    def __init__(self, source: PixelSource, slots: Slots, count: int) -> None:
        self._source, self._slots, self._count = source, slots, count
        self._decoders: list[_Decoder] = []
        self._answers: deque[tuple[SlotRange, Exception | None]] = deque()
        # at exit multiprocessing joins children that still live, so they must be killed before, even without close()
        self._end = util.Finalize(self, _kill, (self._decoders,), exitpriority=100)
        self._complete()

    def close(self) -> None:
        """Kill the processes; nothing is lost by that."""
        self._count = 0
        self._answers.clear()
        _kill(self._decoders)
        self._end.cancel()

    def give(self, part: SlotRange) -> None:
        """Queue a part whose patches are in ``index`` of its slot, at the process with the fewest parts."""
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
        """Wait for the next part that is done; returns it, and its error if it failed."""
        while not self._answers:
            busy = {decoder.pipe: decoder for decoder in self._decoders if decoder.parts}
            for pipe in wait([*busy]):
                self._receive(busy[pipe])  # type: ignore[index]
        return self._answers.popleft()

    def drain(self) -> None:
        """Wait for all queued parts and discard their answers; then every slot is free."""
        while any(decoder.parts for decoder in self._decoders):
            self.answer()
        self._answers.clear()

    def _receive(self, decoder: _Decoder) -> None:
        try:
            message = decoder.pipe.recv_bytes()
        except (EOFError, OSError):
            self._lost(decoder)
        else:
            self._answers.append((decoder.parts.popleft(), pickle.loads(message) if message else None))

    def _lost(self, decoder: _Decoder) -> None:
        """Answer for the part that a dead process was decoding; its other parts are given to other processes."""
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
    """Decode patches into ``pixels``, up to the first that fails; returns its error."""
    try:
        for place, i in enumerate(index.tolist()):
            source.into(i, pixels[place])
    except Exception as error:
        return error
    return None


def _pickled(error: Exception) -> bytes:
    """An error pickled for the main process; an unexpected one includes its traceback."""
    if not isinstance(error, ArtefactError):
        error.add_note("".join(["in a process that decodes patches:\n", *traceback.format_exception(error)]))
    try:
        return pickle.dumps(error)
    except Exception:
        return pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
