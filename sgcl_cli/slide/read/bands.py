"""Patches read together: bands of the lattice, blocks within a band, windows within a block.

A band is a run of patches in the file's order, as many rows of the lattice as fit a block's height. Its blocks are read one by
one, each as one piece of a source; a patch is a window of its block. So what patches share is decoded once, and memory is
bounded by a block and by what a source keeps for the blocks that follow, not by the slide: ``MEMORY`` holds it all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import area
from sgcl_cli.slide.read.threads import ALONE, Threads

Made = TypeVar("Made")
Windows = Callable[
    [int], NDArray[np.uint8]
]  # a row of a block -> its window, uint8 (height, width, 3); not to be written to

SIDE = 2048  # source pixels of a block
PATCHES = 1024  # in a band: their encoded bytes wait for the band's end
MEMORY = 400 * 2**20  # bytes; reading with one thread takes no more, however large the slide and full of tissue
_FILLED = 0.7  # least share of a block that patches cover


@dataclass(frozen=True)
class Patch:
    """What a patch is: ``extent`` level-0 pixels a side, shown in ``size`` pixels."""

    extent: float
    size: int


@dataclass(frozen=True)
class Block:
    """Patches cut from one piece of a source.

    :ivar patches: int64 (n,), positions in the list of corners.
    :ivar windows: int64 (n, 4), left, top, right, bottom in source pixels.
    :ivar skips: int64 (n, 2), patch pixels (columns, rows) in a window before the patch.
    :ivar shifts: float64 (n, 2), source pixels (across, down) by which a window's content is moved to its beginning.
    :ivar scale: source pixels per patch pixel.
    :ivar origin: the source pixel (column, row) from which the windows were placed, at or before the first of them.
    """

    patches: NDArray[np.int64]
    windows: NDArray[np.int64]
    skips: NDArray[np.int64]
    shifts: NDArray[np.float64]
    scale: float
    origin: tuple[int, int]

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The rectangle around all windows: left, top, right, bottom in source pixels."""
        left, top = self.windows[:, :2].min(axis=0).tolist()
        right, bottom = self.windows[:, 2:].max(axis=0).tolist()
        return left, top, right, bottom

    def alone(self, row: int) -> Block:
        """The block of one of its patches."""
        one = slice(row, row + 1)
        return replace(
            self, patches=self.patches[one], windows=self.windows[one], skips=self.skips[one], shifts=self.shifts[one]
        )


@dataclass(frozen=True)
class Band:
    """The patches from ``start`` to ``stop`` in the file's order: in blocks, or ``single`` where a window would not fit."""

    start: int
    stop: int
    blocks: tuple[Block, ...] = ()
    single: tuple[int, ...] = ()

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of its patches in the order in which ``read`` gives them, int64 (stop - start,)."""
        return np.concatenate([*(block.patches for block in self.blocks), np.array(self.single, np.int64)])


class WindowSource(Protocol):
    """A grid of pixels that windows are cut from.

    :ivar path: its name in the artefact.
    :ivar why: why this one was taken.
    :ivar pitch: level-0 pixels from one pixel to the next.
    :ivar size: (width, height) in pixels.
    :ivar parallel: whether blocks can be read at the same time; else one after the other, each with all threads.
    """

    path: str
    why: str
    pitch: float
    size: tuple[int, int]
    parallel: bool

    def place(self, pixel: int) -> float:
        """Where a piece that begins at ``pixel`` truly begins, level-0 pixels."""

    def expect(self, bands: Sequence[Band]) -> None:
        """Be told what will be read, in order."""

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        """The windows of a block.

        :raises SlideError: one cannot be decoded.
        """


@dataclass
class ThroughOpenSlide:
    """A level as OpenSlide renders it; tiles that blocks share stay in its cache as far as a band fits into ``capacity``.

    Each thread that reads has a slide of its own: after an error OpenSlide has to open the file anew, under nobody else's hands.
    """

    slide: Slide
    level: int
    why: str
    path: str = "openslide"
    capacity: int = 128 * 2**20  # bytes
    parallel: bool = True
    pitch: float = field(init=False)
    size: tuple[int, int] = field(init=False)
    _idle: SimpleQueue[Slide] = field(init=False, default_factory=SimpleQueue)
    _others: ExitStack = field(init=False, default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.pitch, self.size = self.slide.downsamples[self.level], self.slide.level_sizes[self.level]
        self._idle.put(self.slide)

    def place(self, pixel: int) -> float:
        return round(pixel * self.pitch)

    def expect(self, bands: Sequence[Band]) -> None:
        needed = [
            4 * (right - left) * (bottom - top) for band in bands for left, top, right, bottom in [_around(band.blocks)]
        ]
        self.capacity = min(self.capacity, 2 * max(needed, default=0))
        self.slide.cache(self.capacity)

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        x, y, right, bottom = block.box
        if not self.pitch.is_integer():
            x, y = block.origin
        location = round(x * self.pitch), round(y * self.pitch)
        slide = self._free_slide()
        try:
            pixels = slide.pixels(self.level, location, (right - x, bottom - y))
        finally:
            self._idle.put(slide)

        def window(row: int) -> NDArray[np.uint8]:
            left, top, right, bottom = block.windows[row].tolist()
            return pixels[top - y : bottom - y, left - x : right - x]

        return window

    def close(self) -> None:
        """Close the slides of further threads."""
        self._others.close()

    def _free_slide(self) -> Slide:
        try:
            return self._idle.get_nowait()
        except Empty:
            another = self._others.enter_context(Slide(self.slide.path, given_mpp=self.slide.mpp))
            another.cache(self.capacity)
            return another


def plan(corners: NDArray[np.int64], shape: Patch, source: WindowSource) -> list[Band]:
    """All patches in bands, in the order given.

    :param corners: int64 (N, 2), level-0 pixels.
    """
    across = shape.extent / source.pitch
    bands = []
    for start, stop in _runs(corners / source.pitch, across):
        if across > SIDE:
            bands.append(Band(start, stop, single=tuple(range(start, stop))))
            continue
        groups = list(_split(corners[start:stop] / source.pitch, np.arange(stop - start), across))
        blocks, single = [], []
        for group in groups:
            block, rest = _block(corners, group + start, shape, source)
            blocks += [block] if len(block) else []
            single += rest.tolist()
        bands.append(Band(start, stop, tuple(blocks), tuple(single)))
    return bands


def _copied(pixels: NDArray[np.uint8]) -> Any:
    return np.array(pixels)


def read(
    slide: Slide,
    source: WindowSource,
    band: Band,
    corners: NDArray[np.int64],
    shape: Patch,
    *,
    finish: Callable[[NDArray[np.uint8]], Made] = _copied,
    threads: Threads = ALONE,
) -> Iterator[tuple[int, Made | SlideError]]:
    """The patches of a band, in the order in which they are read, each with its position in ``corners``.

    :param finish: what becomes of a patch, uint8 (size, size, 3), which is not to be kept as it is.
    :returns: what ``finish`` made, or why a patch cannot be read.
    """

    def whole(block: Block) -> list[tuple[int, Made | SlideError]]:
        return list(_finished(source, block, shape.size, finish, ALONE))

    if source.parallel:
        for made in threads.map(whole, band.blocks):
            yield from made
    else:
        for block in band.blocks:
            yield from _finished(source, block, shape.size, finish, threads)
    for position in band.single:
        x, y = corners[position].tolist()
        try:
            patch = slide.region((x, y), (shape.extent, shape.extent), (shape.size, shape.size))
        except SlideError as error:
            yield position, error
        else:
            yield position, finish(patch)


def _finished(
    source: WindowSource, block: Block, size: int, finish: Callable[[NDArray[np.uint8]], Made], threads: Threads
) -> Iterator[tuple[int, Made | SlideError]]:
    """The patches of a block; one by one where the block cannot be read as a whole."""
    try:
        windows = source.read(block, threads)
    except SlideError as error:
        if len(block) == 1:
            yield int(block.patches[0]), error
            return
        for row in range(len(block)):
            yield from _finished(source, block.alone(row), size, finish, ALONE)
        return

    def cut(row: int) -> Made:
        skip, shift = tuple(block.skips[row].tolist()), tuple(block.shifts[row].tolist())
        return finish(area.average(windows(row), block.scale, (size, size), skip, shift))

    yield from zip(block.patches.tolist(), threads.map(cut, range(len(block))), strict=True)


def _block(
    corners: NDArray[np.int64], group: NDArray[np.int64], shape: Patch, source: WindowSource
) -> tuple[Block, NDArray[np.int64]]:
    """The block of a group of patches, and those of them that do not lie on the source."""
    across, down = (_axis(corners[group, axis], shape, source, source.size[axis]) for axis in (0, 1))
    (left, columns), (top, rows) = across, down
    fits = columns.fits & rows.fits
    starts = np.stack([left + columns.start, top + rows.start], axis=1)[fits]
    counts = np.stack([columns.count, rows.count], axis=1)[fits]
    skips = np.stack([columns.skip, rows.skip], axis=1)[fits]
    shifts = np.stack([columns.shift, rows.shift], axis=1)[fits]
    windows = np.concatenate([starts, starts + counts], axis=1)
    return Block(group[fits], windows, skips, shifts, columns.scale, (left, top)), group[~fits]


def _axis(corners: NDArray[np.int64], shape: Patch, source: WindowSource, limit: int) -> tuple[int, area.Axis]:
    """Windows along one axis, counted from the source pixel that is returned with them."""
    scale = shape.extent / (shape.size * source.pitch)
    first = max(0, math.floor(corners.min() / source.pitch - (area.MARGIN + 1) * scale))
    relative = (corners - source.place(first)).astype(np.float64)
    return first, area.align(relative, shape.extent, shape.size, source.pitch, limit - first)


def _runs(corners: NDArray[np.float64], side: float) -> Iterator[tuple[int, int]]:
    """Consecutive patches whose bounding box is narrow enough in one direction, ``PATCHES`` of them at most."""
    start, left, top, right, bottom = 0, 0.0, 0.0, 0.0, 0.0
    for position, (x, y) in enumerate(corners.tolist()):
        wider = min(left, x), min(top, y), max(right, x), max(bottom, y)
        narrow = min(wider[2] - wider[0], wider[3] - wider[1]) + side <= max(SIDE, side)
        if position > start and narrow and position - start < PATCHES:
            left, top, right, bottom = wider
            continue
        if position > start:
            yield start, position
        start, left, top, right, bottom = position, x, y, x, y
    if len(corners):
        yield start, len(corners)


def _split(corners: NDArray[np.float64], group: NDArray[np.int64], side: float) -> Iterator[NDArray[np.int64]]:
    """Groups of patches whose bounding boxes are no larger than a block and well filled."""
    low, high = corners[group].min(axis=0), corners[group].max(axis=0)
    extent = high - low + side
    covered = min(1.0, len(group) * side**2 / extent.prod())
    if len(group) == 1 or (extent.max() <= max(SIDE, side) and covered >= _FILLED):
        yield group
        return
    axis = int(np.argmax(extent))
    before = corners[group, axis] < (low[axis] + high[axis]) / 2
    if before.all() or not before.any():
        yield group
        return
    yield from _split(corners, group[before], side)
    yield from _split(corners, group[~before], side)


def _around(blocks: Sequence[Block]) -> tuple[int, int, int, int]:
    boxes = np.array([block.box for block in blocks] or [(0, 0, 0, 0)])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom
