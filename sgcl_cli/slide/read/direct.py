"""Direct decoding of the JPEG tiles of a TIFF, each once, at a reduced scale if that has enough detail.

A JPEG block of 8 x 8 pixels can be decoded to 4 x 4, 2 x 2 or 1 pixels from its lowest frequencies, which is cheaper than
decoding and averaging all of it. A sample of tiles is decoded both ways to check a slide: at full scale they must equal
OpenSlide's to within ``MOST_DIFFERENCE`` grey levels, and at a reduced scale reach ``LEAST_PSNR`` against the area average of
the full ones. If the check fails, and for single tiles that are missing or of another size, OpenSlide is used.
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
LEAST_PSNR = 40.0  # dB, about that of a JPEG of quality 90 against the original
_CHECKED = 5  # tiles
_BLOCK = 8  # pixels of a JPEG block
_ALIGNED = 0.01  # level pixels
_KEPT = 128 * 2**20  # bytes of tiles


class OddTileError(Exception):
    """A tile that is missing or not of the recorded size, and has to be rendered by OpenSlide."""


@dataclass(frozen=True)
class Tiles:
    """The JPEG tiles of a level, decoded at a scale of ``eighths`` / 8.

    :ivar descriptor: file descriptor of the open file.
    :ivar name: of the file, for messages.
    :ivar level: places and sizes of the tiles.
    :ivar eighths: 1, 2, 4 or 8.
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

        :raises SlideError: it is damaged.
        :raises OddTileError: it is missing.
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

        :raises SlideError: it is damaged.
        :raises OddTileError: it is missing or of another size.
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
    """A level decoded directly from its JPEG tiles; a ``WindowSource``.

    Tiles that later blocks need are cached; if ``capacity`` suffices, each tile is decoded once.

    :ivar capacity: size of the cache, bytes.
    :ivar decoded: number of tiles decoded so far.
    :ivar uses: int32 (rows, columns), how many more times each tile will be used.
    """

    path = "direct"
    parallel = False

    def __init__(self, tiles: Tiles, slide: Slide, level: int, capacity: int = _KEPT) -> None:
        self.why = ""
        self.decoded = 0
        self.tiles, self.slide, self.level = tiles, slide, level
        self.pitch = slide.downsamples[level] * _BLOCK / tiles.eighths
        width, height = slide.level_sizes[level]
        self.size = width * tiles.eighths // _BLOCK, height * tiles.eighths // _BLOCK
        self.uses = np.zeros(tiles.level.counts.shape, np.int32)
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self.capacity = capacity
        self._lock = Lock()

    @property
    def held(self) -> int:
        """Size of the cached tiles, bytes."""
        return sum(tile.nbytes for tile in self._kept.values())

    def place(self, pixel: int) -> float:
        return pixel * self.pitch

    def expect(self, bands: Sequence[Band]) -> None:
        for band in bands:
            for block in band.blocks:
                for column, row in self.needed(block):
                    self.uses[row, column] += 1

    def read(self, block: Block, threads: Threads = ALONE) -> Windows:
        width, height = self.tiles.side
        needed, windows = self.needed(block), block.windows.tolist()
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

    def needed(self, block: Block) -> list[tuple[int, int]]:
        """(column, row) of each tile that the windows of a block overlap."""
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
        """Count one use of a tile, and cache it if there are more; the least recently used tiles are dropped."""
        column, row = tile
        self.uses[row, column] -= 1
        if self.uses[row, column] > 0:
            self._kept[tile] = pixels
            while len(self._kept) * pixels.nbytes > self.capacity:
                self._kept.popitem(last=False)

    def rectangle(self, box: tuple[int, int, int, int], threads: Threads = ALONE) -> NDArray[np.uint8]:
        """A rectangle, decoded without the cache, uint8 (bottom - top, right - left, 3).

        :param box: left, top, right, bottom, source pixels.
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
        """A missing or odd tile as OpenSlide renders it, uint8 (height, width, 3).

        A missing tile of a slide with one level has the background colour, as no other level could provide it.

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
    """The fastest source that has the patches, and their bands; ``source.why`` gives the reason for the choice.

    :param corners: int64 (N, 2), x and y of the top-left corners, level-0 pixels, in the order of reading.
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
    """A level reduced as far as ``mpp`` µm per pixel allows; None if its tiles cannot be decoded at a reduced scale."""
    eighths = _fewest(mpp / (slide.mpp * slide.downsamples[level]))
    if eighths == _BLOCK:
        yield None
        return
    with scaled_level(slide, level, _BLOCK // eighths) as source:
        yield source


@contextmanager
def scaled_level(slide: Slide, level: int, factor: int) -> Iterator[Direct | None]:
    """A level reduced by a factor of 1, 2, 4 or 8; None if its tiles cannot be decoded at that scale."""
    found, _ = _tiled_level(slide, level)
    if found is None:
        yield None
        return
    eighths = _BLOCK // factor
    descriptor = os.open(slide.path, os.O_RDONLY)
    try:
        source = Direct(Tiles(descriptor, slide.path.name, found, eighths), slide, level)
        source.uses += 1
        yield source if _check(source).passed else None
    finally:
        os.close(descriptor)


def _fewest(scale: float) -> int:
    """The smallest scale of decoding, in eighths, that has enough detail for patch pixels of ``scale`` level pixels."""
    return next((eighths for eighths in (1, 2, 4) if _BLOCK / eighths <= scale * UPSAMPLING_ALLOWED), _BLOCK)


def _tiled_level(slide: Slide, level: int) -> tuple[TiledLevel | None, str]:
    """The tiles of a level, or the reason why they cannot be decoded directly."""
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
    """The first source that passes the check: tiles at a reduced scale, else at full scale, else OpenSlide."""
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
    """The result of checking a sample of tiles.

    :ivar passed: whether tiles can be decoded directly.
    :ivar words: measured differences, or the reason for the failure.
    """

    passed: bool
    words: str


def _check(source: Direct) -> _Check:
    """Decode a sample of the needed tiles directly and by OpenSlide, and compare."""
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
    finding = f"{len(differences)} tiles differ from OpenSlide's by at most {worst} grey levels"
    if worst > MOST_DIFFERENCE:
        return _Check(False, finding)
    if not reduced:
        return _Check(True, finding)
    psnr = 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-6))
    finding += f", and at {source.tiles.eighths}/8 are {psnr:.1f} dB from their area average"
    return _Check(psnr >= LEAST_PSNR, finding)


def _some_tiles(source: Direct) -> list[tuple[int, int]]:
    """A random sample of the needed tiles, (column, row), from those of which OpenSlide renders some pixels unshifted, if any."""
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
    """The largest difference between a tile and OpenSlide's rendering of the same place, grey levels.

    OpenSlide addresses whole level-0 pixels, so on a level with a fractional downsample most places are rendered with a subpixel
    shift and blurred; the comparison starts at the pixel with the smallest shift.
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
    """The pixel in the first half of a tile that is nearest to a whole level-0 pixel, and its distance, in pixels of the level.

    :param tile: column or row of the tile.
    :param side: of a tile, pixels of the level.
    :param limit: length of the level along this axis, pixels.
    """
    inside = min(side, limit - tile * side)
    pixels = np.arange(tile * side, tile * side + max(1, inside // 2))
    shift = np.abs(np.rint(pixels * downsample) / downsample - pixels)
    best = int(np.argmin(shift))
    return int(pixels[best]), float(shift[best])
