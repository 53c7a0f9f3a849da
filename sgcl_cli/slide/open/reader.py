"""Slides: opening, resolution, and reading of regions at a resolution.

Reference frame: level-0 pixels, x (to the right) before y (down), origin at the top-left corner of level 0. Sizes are
(width, height), arrays (row, column, RGB); the conversion between the two is done here. Resolutions are in µm per pixel.

Source: OpenSlide's properties (https://openslide.org/properties/).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends import czi, image, ome_zarr, openslide, strips
from sgcl_cli.slide.open.backends.base import Backend, Library
from sgcl_cli.slide.open.bounds import Bounds, bounds
from sgcl_cli.slide.open.files import check_readable, is_folder
from sgcl_cli.slide.open.levels import WINDOW, contrast, differs, mismatch
from sgcl_cli.slide.open.resolution import MppSource, positive, resolution

UPSAMPLING_ALLOWED = 1.05  # of reduced levels and of tiles decoded at a reduced scale, which have a finer alternative
LEVEL_0_UPSAMPLING = 1.07  # of level 0, which has none: 20x scanners are at 0.49 to 0.53 µm per pixel

_FIELD_OF_VIEW_TOLERANCE = 0.5  # level-0 pixels
_LONGEST_SIDE = 4_000_000  # pixels
_LARGEST_TILE = 64 * 2**20  # pixels, since OpenSlide decodes whole tiles
THUMBNAIL_MPP = 8.0
THUMBNAIL_SIDE = 4096
_BLOCK = 2048  # pixels of a level read at once
_PIECE = 64  # pixels of a level; an unreadable block is read again in pieces of about this size
_UNREADABLE_PIECES = 4000  # a slide with more of them fails

_Pair = tuple[float, float]


@dataclass(frozen=True)
class Thumbnail:
    """A reduced image of a whole slide.

    :ivar pixels: uint8 (H, W, 3), RGB.
    :ivar scale: (x, y) level-0 pixels per thumbnail pixel.
    :ivar mpp: µm per thumbnail pixel.
    :ivar unreadable: bool (H, W), True if no level can be decoded there; ``pixels`` has the background colour there.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]
    mpp: float
    unreadable: NDArray[np.bool_]


def _opened(path: Path) -> Backend:
    """The backend of a file: OpenSlide, or another one for images that OpenSlide does not open."""
    suffix = path.suffix.lower()
    if is_folder(path):
        return ome_zarr.OmeZarr(path)
    if suffix in image.EXTENSIONS:
        return image.WholeImage(path)
    try:
        return openslide.OpenSlideBackend(path)
    except openslide.UnknownFormatError:
        if strips.is_tiff(path):
            return strips.PlainTiff(path)
        raise
    except SlideError as error:
        if suffix == czi.EXTENSION:
            return czi.Czi(path, error.message)
        raise


class Slide:
    """An open slide; a context manager.

    :ivar path: the file.
    :ivar size: (width, height) of level 0, pixels.
    :ivar mpp: resolution of level 0, µm per pixel; the coarser of the two if pixels are oblong.
    :ivar mpps: horizontal and vertical resolution of level 0, µm per pixel.
    :ivar mpp_source: source of ``mpps``.
    :ivar downsamples: of each level, level-0 pixels per pixel.
    :ivar level_sizes: (width, height) of each level, pixels.
    :ivar unusable: levels that are not reduced copies of level 0, which are never read, each with the reason.
    :ivar background: RGB of areas that were not scanned.
    :ivar magnification: power of the objective; None if not recorded.
    :ivar bounds: the scanned part; None if not recorded.
    """

    def __init__(self, path: Path, *, given_mpp: float | None = None, default_mpp: float | None = None) -> None:
        """Open ``path``.

        :param given_mpp: µm per level-0 pixel, overrides what the slide records.
        :param default_mpp: µm per level-0 pixel, for slides without a usable record.
        :raises SlideError: the file is missing, unreadable, not a slide or too large, or has no resolution.
        """
        self.path = path
        check_readable(path)
        self._backend = _opened(path)
        try:
            properties = self._backend.properties
            self._check_dimensions()
            self._check_generic()
            self.size = self._backend.size
            self.downsamples = self._backend.downsamples
            self.level_sizes = self._backend.level_sizes
            found = ((level, mismatch(self.size, size)) for level, size in enumerate(self.level_sizes))
            self.unusable: dict[int, str] = {level: why for level, why in found if why}
            self.background = _background(properties)
            self.magnification = positive(properties.get("openslide.objective-power"))
            self.bounds: Bounds | None = bounds(properties)
            self.mpps: tuple[float, float]
            self.mpp_source: MppSource
            self.mpps, self.mpp_source = resolution(path, properties, given_mpp, default_mpp)
            self.mpp = max(self.mpps)
            if properties.get("openslide.vendor", "generic-tiff") == "generic-tiff":
                self._check_pictures()
        except SlideError:
            self._backend.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.close()

    @property
    def library(self) -> Library:
        """The library that decodes the pixels."""
        return self._backend.library

    @property
    def remarks(self) -> list[str]:
        """Messages on records of the file that are wrong and therefore not used."""
        if not self.unusable:
            return []
        levels = "; ".join(f"level {level}: {why}" for level, why in self.unusable.items())
        return [f"levels that are not reduced copies of level 0 are not used: {levels}"]

    def best_level(self, mpp: float) -> int:
        """The coarsest level that resolves ``mpp`` with at most 5 % of upsampling, else level 0."""
        sufficient = [
            level
            for level, downsample in enumerate(self.downsamples)
            if self.mpp * downsample <= mpp * UPSAMPLING_ALLOWED and level not in self.unusable
        ]
        return max(sufficient, key=lambda level: self.downsamples[level], default=0)

    def check_resolves(self, mpp: float) -> None:
        """Check that level 0 is fine enough for ``mpp``.

        :raises SlideError: level 0 is more than 7 % coarser.
        """
        if self.mpp > mpp * LEVEL_0_UPSAMPLING:
            raise SlideError(
                f"{self.path.name}: level 0 is {self.mpp:.4g} µm/px, asked for {mpp:.4g}",
                f"use --mpp >= {math.ceil(self.mpp * 1000) / 1000:.4g} or --allow-upsample",
            )

    def region(
        self, corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A rectangle of the slide, by area averaging from the coarsest sufficient level.

        :param corner: (x, y) of the top-left corner, level-0 pixels.
        :param extent: (width, height), level-0 pixels; each edge is exact to half a level-0 pixel.
        :param size: (width, height) of the result, pixels.
        :returns: uint8 (height, width, 3), RGB on the slide's background colour.
        :raises SlideError: the rectangle cannot be decoded.
        """
        scale = extent[0] / size[0], extent[1] / size[1]
        level = self.best_level(self.mpp * min(scale))
        pixels = np.empty((size[1], size[0], 3), np.uint8)
        for part in _parts(size, corner, scale, _BLOCK * self.downsamples[level]):
            pixels[part.place] = self._region(level, part)
        return pixels

    def thumbnail(
        self,
        mpp: float = THUMBNAIL_MPP,
        longest: int = THUMBNAIL_SIDE,
        read: Callable[[_Pair, _Pair, tuple[int, int]], NDArray[np.uint8]] | None = None,
        block: float | None = None,
    ) -> Thumbnail:
        """The whole slide at about ``mpp``, with square pixels; read in blocks, so memory is bounded.

        Places of the best level that cannot be decoded are read from finer levels.

        :param mpp: µm per pixel; coarser if a side would exceed ``longest`` pixels.
        :param read: function that reads regions instead of the backend, with the parameters of ``region``.
        :param block: side of a block, level-0 pixels.
        :raises SlideError: nothing, or too little of the slide, can be decoded.
        """
        proper = [side * (of_axis / self.mpp) for side, of_axis in zip(self.size, self.mpps, strict=True)]
        reduction = max(1.0, mpp / self.mpp, max(proper) / longest)
        width, height = (max(1, round(side / reduction)) for side in proper)
        scale = self.size[0] / width, self.size[1] / height
        best = self.best_level(self.mpp * min(scale))
        pixels = np.empty((height, width, 3), np.uint8)
        unreadable = np.zeros((height, width), np.bool_)
        failures: list[SlideError] = []
        for part in _parts((width, height), (0, 0), scale, block or _BLOCK * self.downsamples[best]):
            try:
                if read is None:
                    pixels[part.place] = self._region(best, part)
                else:
                    pixels[part.place] = read(part.corner, part.extent, part.size)
            except SlideError:
                failures += self._narrow_down(best, part, pixels[part.place], unreadable[part.place])
            if failures and (unreadable.all() or len(failures) > _UNREADABLE_PIECES):
                raise failures[0]
        return Thumbnail(pixels, scale, math.sqrt(math.prod(self.mpps) * math.prod(scale)), unreadable)

    def pixels(self, level: int, location: tuple[int, int], count: tuple[int, int]) -> NDArray[np.uint8]:
        """A rectangle of a level, not resampled.

        :param location: (x, y) of the top-left corner, level-0 pixels.
        :param count: (width, height), pixels of the level.
        :returns: uint8 (height, width, 3), RGB on the slide's background colour.
        :raises SlideError: the rectangle cannot be decoded; others can still be read.
        """
        return _compose(self._backend.read(location, level, count), self.background)

    def cache(self, capacity: int) -> None:
        """Set the size of the cache of decoded tiles, bytes."""
        self._backend.cache(capacity)

    def _narrow_down(
        self, best: int, block: _Part, pixels: NDArray[np.uint8], unreadable: NDArray[np.bool_]
    ) -> list[SlideError]:
        """Read a block that cannot be read at once piece by piece, each from the best level or else a finer one.

        :param pixels: of the block, written in place.
        :param unreadable: of the block, set to True at pieces that no level can provide.
        :returns: the errors of these pieces.
        """
        coarsest = self.downsamples[best]
        levels = [n for n, factor in enumerate(self.downsamples) if factor <= coarsest and n not in self.unusable]
        failures = []
        for piece in _parts(block.size, block.corner, block.scale, _PIECE * self.downsamples[best]):
            for level in sorted(levels, key=lambda level: -self.downsamples[level]):
                try:
                    pixels[piece.place] = self._region(level, piece)
                    break
                except SlideError as error:
                    failure = error
            else:
                pixels[piece.place] = self.background
                unreadable[piece.place] = True
                failures.append(failure)
        return failures

    def _region(self, level: int, part: _Part) -> NDArray[np.uint8]:
        corner, extent, size = part.corner, part.extent, part.size
        downsample, limits = self.downsamples[level], self.level_sizes[level]
        across, down = (_span(corner[axis], extent[axis], downsample, limits[axis]) for axis in (0, 1))
        pixels = self.pixels(level, (across.location, down.location), (across.count, down.count))
        shrinks = across.count >= size[0] and down.count >= size[1]
        enlarges = across.count <= size[0] and down.count <= size[1]
        if across.whole and down.whole and (shrinks or enlarges):
            averaged = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            return np.asarray(averaged, dtype=np.uint8)
        rows = _average_rows(pixels, down.edges(size[1]))
        columns = _average_rows(rows.swapaxes(0, 1), across.edges(size[0]))
        return np.ascontiguousarray(np.clip(np.rint(columns.swapaxes(0, 1)), 0, 255).astype(np.uint8))

    def _check_generic(self) -> None:
        """Check the samples of a generic TIFF, and use ``PlainTiff`` if OpenSlide does not show its largest image as stored.

        :raises SlideError: a stack of images, or samples or colours that are not supported.
        """
        generic = self._backend.properties.get("openslide.vendor") == "generic-tiff"
        if generic and not strips.check_generic(self.path, self._backend.size):
            self._backend.close()
            self._backend = strips.PlainTiff(self.path)

    def _check_pictures(self) -> None:
        """Compare each level of a generic TIFF with the next finer one, at the place of highest contrast.

        Any image may be flagged as a level. Levels that are padded equally in both directions are detected in their far half,
        where the displacement is largest.
        """
        for level in range(1, len(self.downsamples)):
            if level in self.unusable:
                continue
            finer = max(n for n in range(level) if n not in self.unusable)
            size = tuple(min(WINDOW, side) for side in self.level_sizes[level])
            windows = []
            with suppress(SlideError):
                for place in _far_places(self.level_sizes[level], size):
                    location = round(place[0] * self.downsamples[level]), round(place[1] * self.downsamples[level])
                    window = self.pixels(level, location, (size[0], size[1]))
                    windows.append((contrast(window), location, window))
                _, location, window = max(windows, key=lambda each: each[0])
                ratio = self.downsamples[level] / self.downsamples[finer]
                below = self.pixels(finer, location, (round(size[0] * ratio), round(size[1] * ratio)))
                if differs(window, below):
                    self.unusable[level] = f"its content differs from that of level {finer}"

    def _check_dimensions(self) -> None:
        properties = self._backend.properties
        tiles = [
            int(properties.get(f"openslide.level[{level}].tile-width", 0))
            * int(properties.get(f"openslide.level[{level}].tile-height", 0))
            for level in range(len(self._backend.downsamples))
        ]
        width, height = self._backend.size
        if max(width, height) > _LONGEST_SIDE or max(tiles) > _LARGEST_TILE:
            raise SlideError(
                f"{self.path.name} claims {width} x {height} pixels in tiles of up to {max(tiles)} pixels",
                "the file is damaged or hostile; convert it to a tiled pyramidal TIFF if it is neither",
            )


@dataclass(frozen=True)
class _Part:
    """A block of an image that is read at once.

    :ivar left: of its corner in the image, pixels.
    :ivar top: of its corner in the image, pixels.
    :ivar size: (width, height), pixels of the image.
    :ivar corner: (x, y), level-0 pixels.
    :ivar scale: (x, y), level-0 pixels per pixel of the image.
    """

    left: int
    top: int
    size: tuple[int, int]
    corner: tuple[float, float]
    scale: tuple[float, float]

    @property
    def place(self) -> tuple[slice, slice]:
        return np.s_[self.top : self.top + self.size[1], self.left : self.left + self.size[0]]

    @property
    def extent(self) -> tuple[float, float]:
        return self.size[0] * self.scale[0], self.size[1] * self.scale[1]


def _parts(
    size: tuple[int, int], corner: tuple[float, float], scale: tuple[float, float], block: float
) -> Iterator[_Part]:
    """Blocks of an image of ``size`` pixels with sides of at most ``block`` level-0 pixels; see ``_Part`` for the others."""
    step_x, step_y = (max(1, int(block / side)) for side in scale)
    for top in range(0, size[1], step_y):
        for left in range(0, size[0], step_x):
            part = min(step_x, size[0] - left), min(step_y, size[1] - top)
            yield _Part(left, top, part, (corner[0] + left * scale[0], corner[1] + top * scale[1]), scale)


@dataclass(frozen=True)
class _Span:
    """One axis of a rectangle on a level.

    :ivar location: of the first pixel that is read, level-0 pixels.
    :ivar count: pixels of the level that are read.
    :ivar start: beginning of the rectangle, in pixels of the level from the first.
    :ivar stop: its end.
    """

    location: int
    count: int
    start: float
    stop: float

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.stop == self.count

    def edges(self, parts: int) -> NDArray[np.float64]:
        return np.linspace(self.start, self.stop, parts + 1)


def _span(corner: float, extent: float, downsample: float, limit: int) -> _Span:
    """Whole pixels if their edges coincide with those of the rectangle to within the tolerance, else the pixels that cover it."""
    first = round(corner / downsample)
    count = min(max(1, round((corner + extent) / downsample) - first), limit - first)
    location = round(first * downsample)
    misses = abs(location - corner), abs(location + count * downsample - corner - extent)
    if count > 0 and max(misses) <= _FIELD_OF_VIEW_TOLERANCE:
        return _Span(location, count, 0, count)
    first = math.floor(corner / downsample)
    location = math.floor(first * downsample)
    start = (corner - location) / downsample
    stop = start + extent / downsample
    return _Span(location, max(1, min(math.ceil(stop), limit - first)), start, stop)


def _average_rows(pixels: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the rows between consecutive edges, with fractional rows weighted by their fraction."""
    below = np.minimum(edges.astype(np.int64), pixels.shape[0] - 1)
    before = (edges - below)[:, None, None] * pixels[below]
    sums: NDArray[np.float64] = np.add.reduceat(pixels, below, axis=0, dtype=np.float64)[:-1]
    sums[np.diff(below) == 0] = 0
    means: NDArray[np.float64] = (sums + np.diff(before, axis=0)) / np.diff(edges)[:, None, None]
    return means


def _far_places(size: tuple[int, int], window: tuple[int, ...]) -> list[tuple[int, int]]:
    """Corners of windows in the right and lower half of an image, and of one at its origin."""
    xs, ys = (
        {round(share * (side - own)) for share in (0.5, 0.7, 0.9)} for side, own in zip(size, window, strict=True)
    )
    return [(0, 0), *((x, y) for y in sorted(ys) for x in sorted(xs))]


def _compose(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.float32) / 255
    mixed = rgba[..., :3] * share + np.array(background, np.float32) * (1 - share)
    return np.rint(mixed).astype(np.uint8)


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "FFFFFF")
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)
