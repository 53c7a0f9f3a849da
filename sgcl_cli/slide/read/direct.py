"""Pixels straight from a TIFF's JPEG tiles, each decoded once, scaled down while it is decoded where that suffices.

A JPEG block of 8 x 8 pixels can be decoded to 4 x 4, 2 x 2 or 1 pixels from its lowest frequencies alone, which costs less than
decoding and averaging all of it. Whether a slide's tiles may be read so is decided by reading some of them both ways: at full
scale they must be what OpenSlide renders, to within ``MOST_DIFFERENCE`` grey levels, and the scaled ones must be near the area
average of the full ones, by ``LEAST_PSNR``. Otherwise, and for what is odd about a tile, OpenSlide reads.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import UPSAMPLING_ALLOWED, Slide
from sgcl_cli.slide.open.tiff import TiledLevel, tiled_levels
from sgcl_cli.slide.read import area
from sgcl_cli.slide.read.bands import Band, Block, Patch, ThroughOpenSlide, Windows, WindowSource, plan
from sgcl_cli.slide.read.threads import ALONE, Threads

MOST_DIFFERENCE = 1  # grey levels
LEAST_PSNR = 40.0  # dB; a JPEG of quality 90 is no nearer to what was encoded
_CHECKED = 5  # tiles
_BLOCK = 8  # pixels of a JPEG block
_ALIGNED = 0.01  # level pixels
_KEPT = 128 * 2**20  # bytes of tiles


class OddTileError(Exception):
    """A tile that OpenSlide should render: missing, or not of the size that the directory tells."""


@dataclass(frozen=True)
class Tiles:
    """The JPEG tiles of a level, decoded to ``eighths`` / 8 of their size.

    :ivar descriptor: of the open file.
    :ivar name: of the file, for messages.
    """

    descriptor: int
    name: str
    level: TiledLevel
    eighths: int = _BLOCK

    @property
    def side(self) -> tuple[int, int]:
        """(width, height) of a decoded tile."""
        width, height = self.level.tile
        return width * self.eighths // _BLOCK, height * self.eighths // _BLOCK

    def jpeg(self, column: int, row: int) -> bytes:
        """A tile as a JPEG file.

        :raises SlideError: damaged.
        :raises OddTileError: there is no such tile in the file.
        """
        count, offset = int(self.level.counts[row, column]), int(self.level.offsets[row, column])
        if count == 0:
            raise OddTileError
        try:
            return self.level.jpeg(os.pread(self.descriptor, count, offset))
        except (ValueError, OSError) as error:
            raise self._damaged(column, row, error) from error

    def decode(self, column: int, row: int) -> NDArray[np.uint8]:
        """A tile's pixels, uint8 (height, width, 3), RGB.

        :raises SlideError: damaged.
        :raises OddTileError: OpenSlide should render it.
        """
        data = self.jpeg(column, row)
        width, height = self.side
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                data, colorspace="RGB", fastdct=False, fastupsample=False, min_width=width, min_height=height
            )
        except ValueError as error:
            raise self._damaged(column, row, error) from error
        if pixels.shape != (height, width, 3):
            raise OddTileError
        return pixels

    def _damaged(self, column: int, row: int, error: Exception) -> SlideError:
        where = f"tile {column}, {row} of {self.level.size[0]} x {self.level.size[1]} pixels"
        return SlideError(
            f"{self.name} cannot be read: {where}: {error}", "the file is damaged; copy or export it again"
        )


class Direct:
    """A level decoded from its own JPEG tiles; a ``WindowSource``.

    Tiles that later blocks need are kept, up to ``kept`` bytes; within that bound each tile is decoded once.

    :ivar decoded: tiles decoded so far.
    """

    path = "direct"
    parallel = False

    def __init__(self, tiles: Tiles, slide: Slide, level: int, kept: int = _KEPT) -> None:
        self.why = ""
        self.decoded = 0
        self.tiles, self.slide, self.level = tiles, slide, level
        self.pitch = slide.downsamples[level] * _BLOCK / tiles.eighths
        width, height = slide.level_sizes[level]
        self.size = width * tiles.eighths // _BLOCK, height * tiles.eighths // _BLOCK
        self.uses = np.zeros(tiles.level.counts.shape, np.int32)
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._room = kept
        self._lock = Lock()

    def place(self, pixel: int) -> float:
        return pixel * self.pitch

    def expect(self, bands: Sequence[Band]) -> None:
        for band in bands:
            for block in band.blocks:
                for column, row in self._needed(block):
                    self.uses[row, column] += 1

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        width, height = self.tiles.side
        needed, windows = self._needed(block), block.windows.tolist()
        tiles = dict(zip(needed, threads.map(self._tile, needed), strict=True))

        def window(number: int) -> NDArray[np.uint8]:
            left, top, right, bottom = windows[number]
            columns, rows = range(left // width, -(-right // width)), range(top // height, -(-bottom // height))
            if len(columns) == len(rows) == 1:
                x, y = columns[0] * width, rows[0] * height
                return tiles[columns[0], rows[0]][top - y : bottom - y, left - x : right - x]
            pixels = np.empty((bottom - top, right - left, 3), np.uint8)
            for row in rows:
                for column in columns:
                    x, y = column * width - left, row * height - top
                    place = pixels[max(0, y) : y + height, max(0, x) : x + width]
                    place[:] = tiles[column, row][max(0, -y) :, max(0, -x) :][: place.shape[0], : place.shape[1]]
            return pixels

        return window

    def _needed(self, block: Block) -> list[tuple[int, int]]:
        """Columns and rows of the tiles under a block's windows."""
        width, height = self.tiles.side
        first = block.windows[:, :2] // (width, height)
        last = (block.windows[:, 2:] - 1) // (width, height)
        needed = {
            (row, column)
            for (left, top), (right, bottom) in zip(first.tolist(), last.tolist(), strict=True)
            for row in range(top, bottom + 1)
            for column in range(left, right + 1)
        }
        return [(column, row) for row, column in sorted(needed)]

    def _tile(self, tile: tuple[int, int]) -> NDArray[np.uint8]:
        with self._lock:
            kept = self._kept.pop(tile, None)
        pixels = self._fresh(*tile) if kept is None else kept
        with self._lock:
            self.decoded += kept is None
            self._keep(tile, pixels)
        return pixels

    def _fresh(self, column: int, row: int) -> NDArray[np.uint8]:
        try:
            return self.tiles.decode(column, row)
        except OddTileError:
            with self._lock:
                return self.render(column, row)

    def _keep(self, tile: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Count a use of a tile, and keep it for the next one where there is room."""
        column, row = tile
        self.uses[row, column] -= 1
        if self.uses[row, column] > 0:
            self._kept[tile] = pixels
            while len(self._kept) * pixels.nbytes > self._room:
                self._kept.popitem(last=False)

    def rectangle(self, box: tuple[int, int, int, int], threads: Threads = ALONE) -> NDArray[np.uint8]:
        """All between left, top, right, bottom, decoded anew, uint8 (bottom - top, right - left, 3).

        :raises SlideError: a tile cannot be decoded.
        """
        left, top, right, bottom = box
        width, height = self.tiles.side
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)

        def fill(tile: tuple[int, int]) -> None:
            x, y = tile[0] * width - left, tile[1] * height - top
            place = pixels[max(0, y) : y + height, max(0, x) : x + width]
            place[:] = self._fresh(*tile)[max(0, -y) :, max(0, -x) :][: place.shape[0], : place.shape[1]]

        columns, rows = range(left // width, -(-right // width)), range(top // height, -(-bottom // height))
        threads.map(fill, [(column, row) for row in rows for column in columns])
        return pixels

    def render(self, column: int, row: int) -> NDArray[np.uint8]:
        """An odd tile as OpenSlide shows it, uint8 (height, width, 3).

        Where no other level could fill a missing one in, it is the background, and OpenSlide is not asked.

        :raises SlideError: OpenSlide cannot decode it either.
        """
        if self.tiles.level.counts[row, column] == 0 and len(self.slide.downsamples) == 1:
            return np.full((*self.tiles.side[::-1], 3), self.slide.background, np.uint8)
        downsample, (width, height) = self.slide.downsamples[self.level], self.tiles.level.tile
        location = round(column * width * downsample), round(row * height * downsample)
        pixels = self.slide.pixels(self.level, location, (width, height))
        return area.average(pixels, _BLOCK / self.tiles.eighths, self.tiles.side)


@contextmanager
def opened(slide: Slide, corners: NDArray[np.int64], patch: Patch) -> Iterator[tuple[WindowSource, list[Band]]]:
    """The source from which patches are best read, and the plan for reading them; ``source.why`` says why this one.

    :param corners: int64 (N, 2), level-0 pixels, in the order in which patches are wanted.
    """
    level = slide.best_level(slide.mpp * patch.extent / patch.size)
    found, obstacle = _tiled_level(slide, level)
    with ExitStack() as open_files:
        if found is None:
            source, bands = _through_openslide(slide, level, obstacle, corners, patch)
        else:
            descriptor = os.open(slide.path, os.O_RDONLY)
            open_files.callback(os.close, descriptor)
            source, bands = _direct(slide, level, Tiles(descriptor, slide.path.name, found), corners, patch)
        if isinstance(source, ThroughOpenSlide):
            open_files.callback(source.close)
        yield source, bands


@contextmanager
def whole_level(slide: Slide, level: int, mpp: float) -> Iterator[Direct | None]:
    """A level as a source for what needs no more than ``mpp``, if its tiles can be decoded reduced."""
    found, _ = _tiled_level(slide, level)
    eighths = _fewest(mpp / (slide.mpp * slide.downsamples[level]))
    if found is None or eighths == _BLOCK:
        yield None
        return
    descriptor = os.open(slide.path, os.O_RDONLY)
    try:
        source = Direct(Tiles(descriptor, slide.path.name, found, eighths), slide, level)
        source.uses += 1
        yield source if _check(source).passed else None
    finally:
        os.close(descriptor)


def _fewest(scale: float) -> int:
    """Eighths of a tile's side that suffice for patch pixels of ``scale`` level pixels."""
    return next((eighths for eighths in (1, 2, 4) if _BLOCK / eighths <= scale * UPSAMPLING_ALLOWED), _BLOCK)


def _tiled_level(slide: Slide, level: int) -> tuple[TiledLevel | None, str]:
    """The directory that holds a level's tiles, or why there is none that can be used."""
    size = slide.level_sizes[level]
    levels = tiled_levels(slide.path)
    matching = [tiled for tiled in levels if tiled.size == size]
    if not levels:
        return None, "it is not a tiled TIFF"
    if len(matching) != 1:
        return None, f"{len(matching)} of its directories have the size of level {level}"
    return (None, matching[0].obstacle) if matching[0].obstacle else (matching[0], "")


def _direct(
    slide: Slide, level: int, tiles: Tiles, corners: NDArray[np.int64], patch: Patch
) -> tuple[WindowSource, list[Band]]:
    """Scaled tiles, else full ones, else OpenSlide: the first that passes."""
    scale = patch.extent / (patch.size * slide.downsamples[level])
    obstacle = ""
    for eighths in sorted({_fewest(scale), _BLOCK}):
        source = Direct(replace(tiles, eighths=eighths), slide, level)
        bands = plan(corners, patch, source)
        source.expect(bands)
        check = _check(source)
        if check.passed:
            source.why = "; ".join(part for part in (check.words, obstacle) if part)
            return source, bands
        obstacle = check.words
    return _through_openslide(slide, level, obstacle, corners, patch)


def _through_openslide(
    slide: Slide, level: int, why: str, corners: NDArray[np.int64], patch: Patch
) -> tuple[WindowSource, list[Band]]:
    source = ThroughOpenSlide(slide, level, why, path=slide.library)
    bands = plan(corners, patch, source)
    source.expect(bands)
    return source, bands


@dataclass(frozen=True)
class _Check:
    """Whether tiles may be decoded directly, and what was seen."""

    passed: bool
    words: str


def _check(source: Direct) -> _Check:
    """Decode some needed tiles both ways."""
    full, reduced = replace(source.tiles, eighths=_BLOCK), source.tiles.eighths < _BLOCK
    differences, errors = [], []
    failure = ""
    for column, row in _some_tiles(source):
        try:
            whole = full.decode(column, row)
            scaled = source.tiles.decode(column, row) if reduced else whole
            differences.append(_difference(source, whole, column, row))
        except (SlideError, OddTileError) as error:
            failure = failure or str(error) or "its tiles are not of the size that the file says"
            continue
        if reduced:
            mean = area.average(whole, _BLOCK / source.tiles.eighths, source.tiles.side)
            errors.append(float(np.square(scaled.astype(np.float64) - mean).mean()))
    if not differences:
        return _Check(False, failure or "there are no tiles to check")
    worst = max(differences)
    said = f"{len(differences)} tiles differ from OpenSlide's by at most {worst} grey levels"
    if worst > MOST_DIFFERENCE:
        return _Check(False, said)
    if not reduced:
        return _Check(True, said)
    psnr = 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-6))
    said += f", and at {source.tiles.eighths}/8 are {psnr:.1f} dB from their area average"
    return _Check(psnr >= LEAST_PSNR, said)


def _some_tiles(source: Direct) -> list[tuple[int, int]]:
    """Random ones of the needed tiles, (column, row); of those in which OpenSlide renders some pixels unshifted, if any."""
    present = np.argwhere((source.uses > 0) & (source.tiles.level.counts > 0))
    downsample = source.slide.downsamples[source.level]
    width, height = source.tiles.level.tile
    down, across = len(source.uses), source.uses[0].size
    right, bottom = source.slide.level_sizes[source.level]
    columns = np.array([_unshifted(n, width, right, downsample)[1] for n in range(across)])
    rows = np.array([_unshifted(n, height, bottom, downsample)[1] for n in range(down)])
    aligned = present[np.maximum(rows[present[:, 0]], columns[present[:, 1]]) <= _ALIGNED]
    pool = aligned if len(aligned) else present
    chosen = np.random.default_rng(0).permutation(len(pool))[:_CHECKED]
    return [(column, row) for row, column in pool[chosen].tolist()]


def _difference(source: Direct, pixels: NDArray[np.uint8], column: int, row: int) -> int:
    """The largest difference between a tile and what OpenSlide renders there, grey levels.

    OpenSlide takes whole level-0 pixels, so on a level whose downsample is no whole number most places come out shifted by a
    fraction and blurred; the comparison begins where that fraction is least.
    """
    downsample, size = source.slide.downsamples[source.level], source.slide.level_sizes[source.level]
    (x, _), (y, _) = (
        _unshifted(n, side, limit, downsample)
        for n, side, limit in zip((column, row), source.tiles.level.tile, size, strict=True)
    )
    width, height = source.tiles.level.tile
    right, bottom = min((column + 1) * width, size[0]), min((row + 1) * height, size[1])
    rendered = source.slide.pixels(
        source.level, (round(x * downsample), round(y * downsample)), (right - x, bottom - y)
    )
    left, top = column * width, row * height
    decoded = pixels[y - top : bottom - top, x - left : right - left]
    return int(np.abs(rendered.astype(np.int16) - decoded).max())


def _unshifted(tile: int, side: int, limit: int, downsample: float) -> tuple[int, float]:
    """The pixel in a tile's first half that lies nearest to a whole level-0 pixel, and how far off, in pixels of the level.

    The tile's pixels from ``limit`` on lie outside the level.
    """
    inside = min(side, limit - tile * side)
    pixels = np.arange(tile * side, tile * side + max(1, inside // 2))
    shift = np.abs(np.rint(pixels * downsample) / downsample - pixels)
    best = int(np.argmin(shift))
    return int(pixels[best]), float(shift[best])
