"""Decoded batches of patches by global index, in an order determined by the seed.

Worker processes only decode and draw no random numbers, so their number does not change results. They decode directly into
memory shared with the main process (page-locked for a GPU); only a few numbers per part of a batch go through pipes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.engine.decoders import DecoderLostError, Decoders, PixelSource, SlotRange, Slots, decode
from sgcl_cli.errors import ArtefactError, SgclError

Read = Callable[[int], NDArray[np.uint8]]

_PART = 8  # fewest patches of a task
_AHEAD = 3  # queued tasks per worker
_HELD = 2  # batches that remain valid: the last two returned


@dataclass(frozen=True)
class Failed:
    """Patches that could not be read; later batches follow nevertheless.

    :ivar index: int64, global indices.
    :ivar error: why.
    """

    index: NDArray[np.int64]
    error: SgclError


@dataclass(frozen=True)
class Missing:
    """A single patch that could not be read.

    :ivar index: global index.
    :ivar error: why.
    """

    index: int
    error: SgclError


@dataclass(frozen=True)
class Batch:
    """A batch of decoded patches.

    :ivar patches: uint8 (B, H, W, 3), on the CPU.
    :ivar index: int64 (B,), their global indices.
    :ivar slot: the buffer of the loader; None for separate memory.
    """

    patches: Tensor
    index: NDArray[np.int64]
    slot: int | None = None


class StoredPatches:
    """Reads and decodes the patches of an index; picklable, so that worker processes can have one."""

    def __init__(self, index: PatchIndex) -> None:
        self.index = index
        self.size = index.patch_size

    def __call__(self, i: int) -> NDArray[np.uint8]:
        """Patch i as uint8 (size, size, 3).

        :raises ArtefactError: its JPEG file is damaged or of another size.
        """
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        self.into(i, pixels)
        return pixels

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None:
        """Decode patch i into ``pixels``, uint8 (size, size, 3), contiguous; errors as for a call."""
        file, row = self.index.locate(i)
        decode_jpeg(file.read(row), f"patch {row} of {file.path}", self.size, into=pixels)


@dataclass(frozen=True)
class Called:
    """A source of patches made from a function; picklable if the function is.

    :ivar read: number of a patch -> uint8 (size, size, 3).
    :ivar size: side of a patch, pixels.
    """

    read: Read
    size: int

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None:
        """Copy patch i into ``pixels``."""
        pixels[...] = self.read(i)


def decode_jpeg(
    data: bytes,
    where: str,
    size: int | None = None,
    largest: int = 2**14,
    into: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """A JPEG file as uint8 (H, W, 3), refused before decoding if its dimensions are not as expected.

    :param size: the expected side; None for any up to ``largest``.
    :param into: an array of that size for the pixels.
    :raises ArtefactError: damaged, or of other dimensions.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if size is not None and (height, width) != (size, size):
            raise ArtefactError(f"{where} is {width} x {height} pixels, not {size} x {size}", "make the file again")
        if max(height, width) > largest:
            raise ArtefactError(f"{where} is {width} x {height} pixels, more than {largest}", "give smaller images")
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=into)
    except ValueError as error:
        raise ArtefactError(f"{where} is not a readable JPEG: {error}", "the file is damaged; make it again") from error
    return pixels


class Loader:
    """Batches of patches in a given order; one set of worker processes serves every call of ``batches``.

    A batch is valid until two more were requested. The caller closes the loader, which is a context manager.

    The worker processes are forked by the constructor: open a loader before large allocations, which would stay in their memory
    too. They do not use CUDA.

    :param batch: the most patches in a batch.
    :param workers: processes that decode; 0 decodes in this process, on demand.
    :param pin: whether batches are placed in page-locked memory.
    :raises TrainingError: memory cannot be page-locked.
    """

    def __init__(self, source: PixelSource, *, batch: int, workers: int, pin: bool) -> None:
        self._source = source
        self._parts = max(1, min(workers, batch // _PART))
        self._ahead = math.ceil(
            _AHEAD * workers / self._parts
        )  # batches in the making beside the one that is waited for
        self._slots = Slots(_HELD + self._ahead, batch, source.size)
        self._copies: dict[int, Callable[[], object]] = {}
        self._next = 0  # number of the batch that comes next, over all orders
        self._orders = 0
        self._decoders = Decoders(source, self._slots, workers) if workers > 0 else None
        if pin:
            try:
                self._slots.pin()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; batches that were returned remain valid."""
        if self._decoders is not None:
            self._decoders.close()
        self._slots.close()

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Batch | Failed]:
        """The patches of each index array of ``order``, in turn. A call ends the iteration of an earlier one.

        If a worker process dies, its batch is a ``Failed`` with ``DecoderLostError``, and another process is started.
        """
        self._orders += 1
        this = self._orders
        decoded = self._decoded_here(order) if self._decoders is None else self._decoded(order, self._decoders)
        for index, error in zip(order, decoded, strict=True):
            assert this == self._orders, "an order cannot go on when another was begun"
            slot = self._slot_of(self._next)
            self._next += 1
            if error is None:
                yield Batch(self._slots.tensor[slot, : len(index)], index, slot)
            elif isinstance(error, ArtefactError):
                yield Failed(index, error)
            else:
                raise error

    def copying(self, batch: Batch, wait: Callable[[], object]) -> None:
        """Register a copy of a batch to a GPU; ``wait``, which returns when it is done, is called before the memory is reused."""
        if batch.slot is not None:
            self._copies[batch.slot] = wait

    def one_by_one(self, failed: Failed) -> Iterator[Batch | Missing]:
        """The patches of a failed batch, decoded one by one: in this process, or in a separate one if a process died while it
        decoded them."""
        pixels = np.empty((len(failed.index), *self._slots.pixels.shape[2:]), np.uint8)
        kept: list[int] = []
        apart = _Apart(self._source) if isinstance(failed.error, DecoderLostError) else None
        with nullcontext(self._source) if apart is None else closing(apart) as source:
            for i in failed.index.tolist():
                try:
                    source.into(i, pixels[len(kept)])
                except ArtefactError as error:
                    yield Missing(i, error)
                else:
                    kept.append(i)
        if kept:
            yield Batch(torch.from_numpy(pixels[: len(kept)]), np.array(kept, np.int64))

    def _decoded_here(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Exception | None]:
        for index in order:
            yield decode(self._source, index, self._slots.pixels[self._free(self._next)])

    def _decoded(self, order: Sequence[NDArray[np.int64]], decoders: Decoders) -> Iterator[Exception | None]:
        """The error of each batch, or None, as soon as it is decoded."""
        decoders.drain()  # of an order that was abandoned
        first, given = self._next, 0
        missing: dict[int, int] = {}  # of a batch, the parts that are not done
        errors: dict[int, Exception] = {}
        for place in range(len(order)):
            while given < min(len(order), place + self._ahead + 1):
                parts = self._parts_of(first + given, order[given])
                missing[first + given] = len(parts)
                for part in parts:
                    decoders.give(part)
                given += 1
            while missing[first + place]:
                part, error = decoders.answer()
                missing[part.batch] -= 1
                if error is not None:
                    errors.setdefault(part.batch, error)
            del missing[first + place]
            yield errors.pop(first + place, None)

    def _parts_of(self, number: int, index: NDArray[np.int64]) -> list[SlotRange]:
        """A batch in parts, with its indices written to its slot."""
        slot = self._free(number)
        self._slots.index[slot, : len(index)] = index
        edges = [len(index) * part // self._parts for part in range(self._parts + 1)]
        return [SlotRange(number, slot, start, stop) for start, stop in itertools.pairwise(edges) if start < stop]

    def _slot_of(self, number: int) -> int:
        return number % len(self._slots.pixels)

    def _free(self, number: int) -> int:
        """The slot of a batch, after pending copies from it are done."""
        slot = self._slot_of(number)
        if (wait := self._copies.pop(slot, None)) is not None:
            wait()
        return slot


class _Apart:
    """A source whose patches are decoded in a separate process, since one process died while it decoded them."""

    def __init__(self, source: PixelSource) -> None:
        self.size = source.size
        self._slots = Slots(1, 1, source.size)
        self._decoders = Decoders(source, self._slots, 1)

    def close(self) -> None:
        self._decoders.close()

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None:
        """Decode patch i.

        :raises ArtefactError: it cannot be decoded, or the process dies again.
        """
        self._slots.index[0, 0] = i
        self._decoders.give(SlotRange(0, 0, 0, 1))
        _, error = self._decoders.answer()
        if isinstance(error, DecoderLostError):
            raise ArtefactError(f"{error.message}, twice at the same patch", "its file may be damaged; make it again")
        if error is not None:
            raise error
        pixels[...] = self._slots.pixels[0, 0]


def epoch_order(count: int, batch: int, seed: int, epoch: int, start: int = 0) -> list[NDArray[np.int64]]:
    """A permutation of all patches, drawn from (seed, epoch), in full batches; an incomplete last batch is
    left out. ``start`` skips that many batches, to resume within an epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    return [order[at : at + batch] for at in range(start * batch, count - batch + 1, batch)]


def covering_order(count: int, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """As ``epoch_order``, with the last batch filled up with patches of the first one, so that every patch occurs."""
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    whole = np.resize(order, -(-count // batch) * batch)
    return list(whole.reshape(-1, batch))


def in_turn(start: int, count: int, batch: int) -> list[NDArray[np.int64]]:
    """The patches start .. start + count - 1 in order; the last batch may be shorter."""
    return [np.arange(at, min(at + batch, start + count), dtype=np.int64) for at in range(start, start + count, batch)]
