"""Patches by global index: decoded batches in an order that the seed alone decides.

Worker processes only decode; they draw nothing, so their number cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError

Read = Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True)
class Failed:
    """A batch that could not be decoded, and why; the loader goes on with the next."""

    index: NDArray[np.int64]
    error: ArtefactError


@dataclass(frozen=True)
class Batch:
    """``patches`` uint8 (B, H, W, 3) on the CPU, ``index`` int64 (B,) their global indices."""

    patches: Tensor
    index: NDArray[np.int64]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where copies to a GPU need not wait."""
        return Batch(self.patches.pin_memory(), self.index)


class StoredPatches:
    """Reads and decodes the patches of an index; picklable, so that worker processes can have one."""

    def __init__(self, index: PatchIndex) -> None:
        self.index = index
        self.size = index.patch_size

    def __call__(self, i: int) -> NDArray[np.uint8]:
        """Patch i as uint8 (size, size, 3).

        :raises ArtefactError: its JPEG file is damaged or of another size.
        """
        file, row = self.index.locate(i)
        pixels = decode_jpeg(file.read(row), f"patch {row} of {file.path}", self.size)
        return pixels


def decode_jpeg(data: bytes, where: str, size: int | None = None, largest: int = 2**14) -> NDArray[np.uint8]:
    """A JPEG file as uint8 (H, W, 3), refused before decoding where its dimensions are not as they should be.

    :param size: the side that is expected; None for any up to ``largest``.
    :raises ArtefactError: damaged, or of other dimensions.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if size is not None and (height, width) != (size, size):
            raise ArtefactError(f"{where} is {width} x {height} pixels, not {size} x {size}", "make the file again")
        if max(height, width) > largest:
            raise ArtefactError(f"{where} is {width} x {height} pixels, more than {largest}", "give smaller images")
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        raise ArtefactError(f"{where} is not a readable JPEG: {error}", "the file is damaged; make it again") from error
    return pixels


class _Decoded(Dataset[NDArray[np.uint8]]):
    def __init__(self, read: Read) -> None:
        self.read = read

    def __getitems__(self, index: list[int]) -> Batch | Failed:
        where = np.asarray(index, np.int64)
        try:
            images = [self.read(i) for i in index]
        except ArtefactError as error:
            return Failed(where, error)
        return Batch(torch.from_numpy(np.stack(images)), where)


class _Order(Sampler[list[int]]):
    def __init__(self) -> None:
        self.batches: Sequence[NDArray[np.int64]] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Batches of patches in a given order; one set of worker processes serves every call of ``batches``."""

    def __init__(self, read: Read, *, workers: int, pin: bool) -> None:
        self._order = _Order()
        self._loader: DataLoader[Batch | Failed] = DataLoader(
            _Decoded(read),  # type: ignore[arg-type]
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
        )

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Batch | Failed]:
        """The patches of each index array of ``order``, in turn."""
        self._order.batches = order
        return iter(self._loader)


def _as_is(batch: Any) -> Any:
    return batch


def epoch_order(count: int, batch: int, seed: int, epoch: int, start: int = 0) -> list[NDArray[np.int64]]:
    """A permutation of all patches, drawn from (seed, epoch), in full batches; the rest of less than a batch waits for
    another epoch. ``start`` leaves out that many batches, for going on in the middle."""
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    return [order[at : at + batch] for at in range(start * batch, count - batch + 1, batch)]


def in_turn(start: int, count: int, batch: int) -> list[NDArray[np.int64]]:
    """The patches start .. start + count - 1 in order, the last batch as short as it comes."""
    return [np.arange(at, min(at + batch, start + count), dtype=np.int64) for at in range(start, start + count, batch)]
