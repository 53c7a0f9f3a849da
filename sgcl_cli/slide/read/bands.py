"""Reading of patches in bands of the lattice, blocks of a band, and windows of a block.

A band is a run of consecutive patches, as many rows of the lattice as fit the height of a block. A block is read at once, and
each patch is computed from a window of it. So pixels shared by patches are decoded once, and memory is bounded, whatever the
size of the slide, by one block and the source's cache for the next blocks: ``MEMORY`` in total.
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
]  # index of a patch in its block -> its window, uint8 (height, width, 3); must not be modified

SIDE = 2048  # source pixels, largest side of a block
PATCHES = 1024  # of a band, since their encoded bytes are held until its end
MEMORY = 400 * 2**20  # bytes, upper bound for reading with one thread
_FILLED = 0.7  # smallest share of a block that patches cover


@dataclass(frozen=True)
class Patch:
    """The size of a square patch.

    :ivar extent: side of the field of view, level-0 pixels.
    :ivar size: side, pixels.
    """

    extent: float
    size: int


@dataclass(frozen=True)
class Box:
    """A rectangle of whole source pixels; ``right`` and ``bottom`` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, boxes: NDArray[np.int64]) -> Box:
        """The smallest box that holds all ``boxes``, int64 (n, 4), left, top, right, bottom; n is at least 1."""
        left, top = boxes[:, :2].min(axis=0).tolist()
        right, bottom = boxes[:, 2:].max(axis=0).tolist()
        return cls(left, top, right, bottom)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.right - self.left, self.bottom - self.top


@dataclass(frozen=True)
class Block:
    """Patches computed from one rectangle of a source.

    :ivar patches: int64 (n,), indices into the list of corners.
    :ivar windows: int64 (n, 4), left, top, right, bottom in source pixels.
    :ivar skips: int64 (n, 2), patch pixels (columns, rows) in a window before the patch.
    :ivar shifts: float64 (n, 2), subpixel shift (x, y) of a window's content to the left and upwards, source pixels.
    :ivar scale: source pixels per patch pixel.
    :ivar origin: source pixel (column, row) relative to which the windows were aligned, at or before the first of them.
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
    def box(self) -> Box:
        """The smallest box that holds all windows."""
        return Box.around(self.windows)

    def alone(self, row: int) -> Block:
        """A block with only the patch at index ``row``."""
        one = slice(row, row + 1)
        return replace(
            self, patches=self.patches[one], windows=self.windows[one], skips=self.skips[one], shifts=self.shifts[one]
        )


@dataclass(frozen=True)
class Band:
    """A run of patches.

    :ivar start: index of the first patch.
    :ivar stop: index after the last.
    :ivar blocks: the patches that are read in blocks.
    :ivar single: indices of patches without a window in the source, which are read one by one.
    """

    start: int
    stop: int
    blocks: tuple[Block, ...] = ()
    single: tuple[int, ...] = ()

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of its patches in the order in which ``read`` gives them, int64 (stop - start,)."""
        return np.concatenate([*(block.patches for block in self.blocks), np.array(self.single, np.int64)])


class WindowSource(Protocol):
    """A grid of pixels from which windows are read.

    :ivar path: its name in the artefact.
    :ivar why: reason for the choice of this source.
    :ivar pitch: spacing of its pixels, level-0 pixels.
    :ivar size: (width, height), source pixels.
    :ivar parallel: whether several blocks can be read in parallel; else one at a time, with all threads.
    """

    path: str
    why: str
    pitch: float
    size: tuple[int, int]
    parallel: bool

    def place(self, pixel: int) -> float:
        """The exact position of source pixel ``pixel`` as it is read, level-0 pixels."""

    def expect(self, bands: Sequence[Band]) -> None:
        """Prepare the cache for the bands that will be read, in this order."""

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        """The windows of a block.

        :raises SlideError: a window cannot be decoded.
        """


@dataclass
class ThroughOpenSlide:
    """A level rendered by the slide's backend; a ``WindowSource``.

    Tiles shared by blocks of a band stay in the backend's cache as far as ``capacity`` allows. Each reading thread opens its own
    ``Slide``, since OpenSlide has to open the file again after an error.

    :ivar capacity: size of the cache, bytes.
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
        windows = (np.concatenate([block.windows for block in band.blocks]) for band in bands if band.blocks)
        needed = [4 * math.prod(Box.around(of_band).size) for of_band in windows]
        self.capacity = min(self.capacity, 2 * max(needed, default=0))
        self.slide.cache(self.capacity)

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        box = block.box
        x, y = (box.left, box.top) if self.pitch.is_integer() else block.origin
        location = round(x * self.pitch), round(y * self.pitch)
        slide = self._free_slide()
        try:
            pixels = slide.pixels(self.level, location, (box.right - x, box.bottom - y))
        finally:
            self._idle.put(slide)

        def window(row: int) -> NDArray[np.uint8]:
            left, top, right, bottom = block.windows[row].tolist()
            return pixels[top - y : bottom - y, left - x : right - x]

        return window

    def close(self) -> None:
        """Close the slides that further threads have opened."""
        self._others.close()

    def _free_slide(self) -> Slide:
        try:
            return self._idle.get_nowait()
        except Empty:
            another = self._others.enter_context(Slide(self.slide.path, given_mpp=self.slide.mpp))
            another.cache(self.capacity)
            return another


def plan(corners: NDArray[np.int64], shape: Patch, source: WindowSource) -> list[Band]:
    """All patches in bands, in the order of ``corners``.

    :param corners: int64 (N, 2), x and y of the top-left corners, level-0 pixels.
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
    """Read the patches of a band; yields the index of each in ``corners``, in the order of reading, and the result or error.

    :param finish: computes the result of a patch, uint8 (size, size, 3), whose memory is reused: keep a copy, not the array.
    :returns: pairs of index and result of ``finish``, or the error if the patch cannot be read.
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
    """The patches of a block; read one by one if the block cannot be read at once."""
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
    """The block of a group of patches, and the indices of those without a window in the source."""
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
    """Windows along one axis, relative to the source pixel that is returned with them."""
    scale = shape.extent / (shape.size * source.pitch)
    first = max(0, math.floor(corners.min() / source.pitch - (area.MARGIN + 1) * scale))
    relative = (corners - source.place(first)).astype(np.float64)
    return first, area.align(relative, shape.extent, shape.size, source.pitch, limit - first)


def _runs(corners: NDArray[np.float64], side: float) -> Iterator[tuple[int, int]]:
    """Runs of at most ``PATCHES`` consecutive patches with a bounding box narrow enough along one axis, as (start, stop).

    :param corners: float64 (N, 2), source pixels.
    :param side: of a patch, source pixels.
    """
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
    """Groups of patches with bounding boxes that are no larger than a block and covered to at least ``_FILLED``."""
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
