"""Patches by global index: decoded batches in an order that the seed alone decides.

Worker processes only decode; they draw nothing, so their number cannot matter. They decode straight into memory that is shared
with the main process (and page-locked for a GPU); what goes through queues is a few numbers for a part of a batch.
"""

from __future__ import annotations

import math
import mmap
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError, SgclError

Read = Callable[[int], NDArray[np.uint8]]

_PART = 8  # patches that are worth a task of their own
_AHEAD = 3  # tasks that wait for each worker
_HELD = 2  # batches that remain valid: the one given last, and the one before


class Source(Protocol):
    """Square patches of one ``size`` in pixels that can be decoded into memory that is given."""

    @property
    def size(self) -> int: ...

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None: ...


@dataclass(frozen=True)
class Failed:
    """Patches that could not be had, and why; what follows comes nevertheless."""

    index: NDArray[np.int64]
    error: SgclError


@dataclass(frozen=True)
class Missing:
    """A single patch that could not be had, and why; its neighbours could."""

    index: int
    error: SgclError


@dataclass(frozen=True)
class Batch:
    """``patches`` uint8 (B, H, W, 3) on the CPU, ``index`` int64 (B,) their global indices."""

    patches: Tensor
    index: NDArray[np.int64]


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
    """A source made of a function that returns patches of ``size``; picklable where the function is."""

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
    """A JPEG file as uint8 (H, W, 3), refused before decoding where its dimensions are not as they should be.

    :param size: the side that is expected; None for any up to ``largest``.
    :param into: where to put the pixels; an array of that size.
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


@dataclass(frozen=True)
class _Part:
    """A part of a batch: decode the patches ``index`` into the places from ``start`` on of a slot."""

    slot: int
    start: int
    index: NDArray[np.int64]


class Slots:
    """Room for batches, uint8 (slots, batch, size, size, 3), in anonymous memory that forked processes share.

    It is no file in /dev/shm, which containers keep small.
    """

    def __init__(self, slots: int, batch: int, size: int, pin: bool) -> None:
        shape = (slots, batch, size, size, 3)
        memory = mmap.mmap(-1, math.prod(shape))
        self.pixels: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(shape)
        self.tensor = torch.from_numpy(self.pixels)
        if pin:
            torch.cuda.cudart().cudaHostRegister(self.tensor.data_ptr(), self.tensor.nbytes, 0)  # type: ignore[no-untyped-call]


class _Decoding(Dataset[ArtefactError | None]):
    """In a worker: decodes parts. The result of a part is the first error."""

    def __init__(self, source: Source, slots: Slots) -> None:
        self.source, self.slots = source, slots

    def __getitems__(self, part: _Part) -> ArtefactError | None:
        return _decode(self.source, part.index, self.slots.pixels[part.slot, part.start :])


class _Parts(Sampler[_Part]):
    """The parts of all batches of an order, each batch in ``count`` parts, in slots by turns."""

    def __init__(self, count: int, slots: int) -> None:
        self.count, self.slots = count, slots
        self.order: Sequence[NDArray[np.int64]] = ()
        self.next = 0

    def __iter__(self) -> Iterator[_Part]:
        for number, batch in enumerate(self.order, self.next):
            start = 0
            for index in np.array_split(batch, self.count):
                yield _Part(number % self.slots, start, index)
                start += len(index)

    def __len__(self) -> int:
        return len(self.order) * self.count


class Loader:
    """Batches of patches in a given order; one set of worker processes serves every call of ``batches``.

    A batch is valid until the next but one is asked for.

    :param batch: the most patches in a batch.
    :param workers: processes that decode; 0 decodes in this one, when a batch is asked for.
    :param pin: whether batches shall lie in page-locked memory.
    """

    def __init__(self, source: Source, *, batch: int, workers: int, pin: bool) -> None:
        self._source = source
        parts = max(1, min(workers, batch // _PART))
        self._parts = _Parts(parts, _HELD + math.ceil(_AHEAD * workers / parts))
        self._slots = Slots(self._parts.slots, batch, source.size, pin)
        self._parallel: DataLoader[ArtefactError | None] | None = None
        if workers > 0:
            self._parallel = DataLoader(
                _Decoding(source, self._slots),
                batch_sampler=self._parts,  # type: ignore[arg-type]
                num_workers=workers,
                collate_fn=_as_is,
                persistent_workers=True,
                prefetch_factor=_AHEAD,
                multiprocessing_context="fork",
                worker_init_fn=_deaf,
            )

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Batch | Failed]:
        """The patches of each index array of ``order``, in turn."""
        self._parts.order = order
        here = _Decoding(self._source, self._slots).__getitems__
        results: Iterator[Any] = map(here, self._parts) if self._parallel is None else iter(self._parallel)
        for index in order:
            errors = [next(results) for _ in range(self._parts.count)]
            slot = self._parts.next % self._parts.slots
            self._parts.next += 1
            error = next((error for error in errors if error is not None), None)
            yield Failed(index, error) if error else Batch(self._slots.tensor[slot, : len(index)], index)

    def one_by_one(self, failed: Failed) -> Iterator[Batch | Missing]:
        """The patches of a batch that could not be decoded as a whole, decoded here."""
        pixels = np.empty((len(failed.index), *self._slots.pixels.shape[2:]), np.uint8)
        kept: list[int] = []
        for i in failed.index.tolist():
            try:
                self._source.into(i, pixels[len(kept)])
            except ArtefactError as error:
                yield Missing(i, error)
            else:
                kept.append(i)
        if kept:
            yield Batch(torch.from_numpy(pixels[: len(kept)]), np.array(kept, np.int64))


def _decode(source: Source, index: NDArray[np.int64], pixels: NDArray[np.uint8]) -> ArtefactError | None:
    try:
        for place, i in enumerate(index.tolist()):
            source.into(i, pixels[place])
    except ArtefactError as error:
        return error
    return None


def _as_is(result: Any) -> Any:
    return result


def _deaf(worker: int) -> None:
    """Signals that go to all processes of a group concern the main process, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def epoch_order(count: int, batch: int, seed: int, epoch: int, start: int = 0) -> list[NDArray[np.int64]]:
    """A permutation of all patches, drawn from (seed, epoch), in full batches; the rest of less than a batch waits for
    another epoch. ``start`` leaves out that many batches, for going on in the middle."""
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    return [order[at : at + batch] for at in range(start * batch, count - batch + 1, batch)]


def in_turn(start: int, count: int, batch: int) -> list[NDArray[np.int64]]:
    """The patches start .. start + count - 1 in order, the last batch as short as it comes."""
    return [np.arange(at, min(at + batch, start + count), dtype=np.int64) for at in range(start, start + count, batch)]
