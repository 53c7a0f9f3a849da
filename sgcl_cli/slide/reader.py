"""Open a slide, settle its resolution, read regions at a resolution.

Reference frame: level-0 pixels, x to the right before y down, origin at the top-left corner of level 0. Sizes are
(width, height), arrays (row, column, RGB); the turn from one to the other happens here. Resolutions are in um per pixel.

Sources: OpenSlide's properties (https://openslide.org/properties/) and TIFF 6.0, section "Physical dimensions".
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cv2
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sgcl_cli.errors import SlideError

UPSAMPLING_ALLOWED = 1.05
PLAIN_IMAGES = (".png", ".jpg", ".jpeg")

_FIELD_OF_VIEW_TOLERANCE = 0.5  # level-0 pixels
_SQUARE_TOLERANCE = 1.01
_MPP_BELIEVED = (0.05, 50.0)
_DPI_OF_SOFTWARE = (72, 96, 150, 300)
_LONGEST_SIDE = 4_000_000  # pixels
_LARGEST_TILE = 64 * 2**20  # pixels; OpenSlide decodes whole tiles
_LARGEST_PLAIN_IMAGE = 2**28  # pixels; these are decoded as a whole
THUMBNAIL_MPP = 8.0
THUMBNAIL_SIDE = 4096
_BLOCK = 2048  # pixels of a level read at once
_PIECE = 64  # pixels of a level; an unreadable block is narrowed down to pieces of about this size
_UNREADABLE_PIECES = 4000  # beyond so many a slide is given up
_MIB = 2**20

MppSource = Literal["openslide", "tiff", "given"]
_Pair = tuple[float, float]


@dataclass(frozen=True)
class Thumbnail:
    """A whole slide, reduced.

    :ivar pixels: uint8 (H, W, 3), RGB.
    :ivar scale: (x, y) level-0 pixels per thumbnail pixel.
    :ivar mpp: um per thumbnail pixel.
    :ivar unreadable: bool (H, W), where no level can be decoded; ``pixels`` has the background's colour there.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]
    mpp: float
    unreadable: NDArray[np.bool_]


def identity(path: Path) -> str:
    """What tells a file from another: its size and the sha256 of its first and last MiB, ``<bytes>-<hex>``.

    :raises SlideError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(stream.read(_MIB))
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    except OSError as error:
        raise SlideError(
            f"{path.name} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return f"{size}-{digest.hexdigest()}"


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM slide, None where OpenSlide cannot open it; the reason comes when it is tiled."""
    try:
        with openslide.OpenSlide(path) as slide:
            uid = slide.properties.get("dicom.SeriesInstanceUID")
            return None if uid is None else str(uid)
    except (openslide.OpenSlideError, OSError):
        return None


class Slide:
    """An open slide; a context manager.

    :ivar path: the file.
    :ivar size: (width, height) of level 0, pixels.
    :ivar mpp: um per level-0 pixel.
    :ivar mpp_source: where ``mpp`` comes from.
    :ivar downsamples: of each level, level-0 pixels per pixel.
    :ivar level_sizes: (width, height) of each level, pixels.
    :ivar background: RGB of what the scanner did not scan.
    :ivar magnification: the objective's power, where recorded.
    """

    def __init__(self, path: Path, *, given_mpp: float | None = None, default_mpp: float | None = None) -> None:
        """Open ``path``.

        :param given_mpp: um per level-0 pixel, whatever the slide records.
        :param default_mpp: um per level-0 pixel where the slide records nothing that can be used.
        :raises SlideError: missing, not a slide, unreadable, too large, without a resolution, or with oblong pixels.
        """
        self.path = path
        self._source: Any = None
        self._capacity: int | None = None
        identity(path)
        with self._translated():
            self._source = self._open()
        try:
            with self._translated():
                self.size: tuple[int, int] = self._source.dimensions
                self.downsamples: tuple[float, ...] = tuple(self._source.level_downsamples)
                self.level_sizes: tuple[tuple[int, int], ...] = tuple(self._source.level_dimensions)
                properties = dict(self._source.properties)
            self._check_dimensions(properties)
            self.background = _background(properties)
            self.magnification = _positive(properties.get("openslide.objective-power"))
            self.mpp, self.mpp_source = _resolution(path, properties, given_mpp, default_mpp)
        except SlideError:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def best_level(self, mpp: float) -> int:
        """The lowest-resolution level that still resolves ``mpp``, up to 5 % of upsampling; else level 0."""
        sufficient = [
            level
            for level, downsample in enumerate(self.downsamples)
            if self.mpp * downsample <= mpp * UPSAMPLING_ALLOWED
        ]
        return max(sufficient, key=lambda level: self.downsamples[level], default=0)

    def check_resolves(self, mpp: float) -> None:
        """Refuse to invent detail.

        :raises SlideError: level 0 is more than 5 % coarser than ``mpp``.
        """
        if self.mpp > mpp * UPSAMPLING_ALLOWED:
            raise SlideError(
                f"{self.path.name}: level 0 is {self.mpp:.4g} um/px, asked for {mpp:.4g}",
                f"use --mpp >= {math.ceil(self.mpp * 1000) / 1000:.4g} or --allow-upsample",
            )

    def region(
        self, corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A rectangle of the slide by area averaging, from the lowest sufficient level.

        :param corner: (x, y) of the top-left corner, level-0 pixels.
        :param extent: (width, height), level-0 pixels; each edge is met to within half a level-0 pixel.
        :param size: (width, height) of the result, pixels.
        :returns: uint8 (height, width, 3), RGB on the slide's background colour.
        :raises SlideError: the slide cannot be decoded there.
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
        """The whole slide at about ``mpp``, no side above ``longest`` pixels, read in blocks so that memory stays bounded.

        Where the best level cannot be decoded, the finer ones are tried.

        :param read: another way to read than OpenSlide's, called like ``region``.
        :param block: level-0 pixels a side that are read at once.
        :raises SlideError: nothing, or too little of the slide can be decoded.
        """
        reduction = max(1.0, mpp / self.mpp, max(self.size) / longest)
        width, height = (max(1, round(side / reduction)) for side in self.size)
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
        return Thumbnail(pixels, scale, self.mpp * math.sqrt(scale[0] * scale[1]), unreadable)

    def pixels(self, level: int, location: tuple[int, int], count: tuple[int, int]) -> NDArray[np.uint8]:
        """Pixels of a level as they are.

        :param location: (x, y) of the top-left corner, level-0 pixels.
        :param count: (width, height), pixels of the level.
        :returns: uint8 (height, width, 3), RGB on the slide's background colour.
        :raises SlideError: the slide cannot be decoded there; other places can still be read.
        """
        with self._translated():
            rgba = np.asarray(self._source.read_region(location, level, count))
        return _compose(rgba, self.background)

    def cache(self, capacity: int) -> None:
        """Keep up to ``capacity`` bytes of decoded tiles."""
        self._capacity = capacity
        if isinstance(self._source, openslide.OpenSlide):
            self._source.set_cache(openslide.OpenSlideCache(capacity))

    def _narrow_down(
        self, best: int, block: _Part, pixels: NDArray[np.uint8], unreadable: NDArray[np.bool_]
    ) -> list[SlideError]:
        """Fill ``pixels`` of a block that cannot be read as a whole piece by piece, from the best level or a finer one.

        :returns: why pieces are unreadable.
        """
        levels = [level for level, downsample in enumerate(self.downsamples) if downsample <= self.downsamples[best]]
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
        if across.whole and down.whole:
            shrinks = across.count >= size[0] and down.count >= size[1]
            averaged = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            return np.asarray(averaged, dtype=np.uint8)
        rows = _average_rows(pixels, down.edges(size[1]))
        columns = _average_rows(rows.swapaxes(0, 1), across.edges(size[0]))
        return np.ascontiguousarray(np.clip(np.rint(columns.swapaxes(0, 1)), 0, 255).astype(np.uint8))

    def _open(self) -> openslide.AbstractSlide:
        if self.path.suffix.lower() not in PLAIN_IMAGES:
            return openslide.OpenSlide(self.path)
        with Image.open(self.path) as image:
            if image.width * image.height > _LARGEST_PLAIN_IMAGE:
                raise SlideError(
                    f"{self.path.name} has {image.width} x {image.height} pixels, too many for a {image.format} file",
                    "convert it to a tiled pyramidal TIFF",
                )
        return openslide.ImageSlide(self.path)

    def _reopen(self) -> None:
        """Make other places readable again: after an error OpenSlide answers every call with that error."""
        if isinstance(self._source, openslide.OpenSlide):
            with suppress(openslide.OpenSlideError, OSError):
                fresh = openslide.OpenSlide(self.path)
                self._source.close()
                self._source = fresh
                if self._capacity is not None:
                    self.cache(self._capacity)

    def _check_dimensions(self, properties: Mapping[str, str]) -> None:
        tiles = [
            int(properties.get(f"openslide.level[{level}].tile-width", 0))
            * int(properties.get(f"openslide.level[{level}].tile-height", 0))
            for level in range(len(self.downsamples))
        ]
        width, height = self.size
        if max(width, height) > _LONGEST_SIDE or max(tiles) > _LARGEST_TILE:
            raise SlideError(
                f"{self.path.name} claims {width} x {height} pixels in tiles of up to {max(tiles)} pixels",
                "the file is damaged or hostile; convert it to a tiled pyramidal TIFF if it is neither",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        name = self.path.name
        try:
            yield
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{name} is not a slide that OpenSlide knows", _unknown_format_remedy(self.path)
            ) from error
        except openslide.OpenSlideError as error:
            self._reopen()
            raise SlideError(
                f"{name} cannot be read: {str(error).replace(str(self.path), name)}",
                "the file is damaged or of an unsupported kind; export or copy it again",
            ) from error
        except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError) as error:
            raise SlideError(f"{name} cannot be read: {error}", "the image is damaged; copy it again") from error


@dataclass(frozen=True)
class _Part:
    """A part of a picture that is read at once: where it belongs, and the level-0 rectangle that it shows."""

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
    """Parts of a picture of ``size``, each of at most ``block`` level-0 pixels a side; ``scale`` level-0 pixels per pixel."""
    step_x, step_y = (max(1, int(block / side)) for side in scale)
    for top in range(0, size[1], step_y):
        for left in range(0, size[0], step_x):
            part = min(step_x, size[0] - left), min(step_y, size[1] - top)
            yield _Part(left, top, part, (corner[0] + left * scale[0], corner[1] + top * scale[1]), scale)


@dataclass(frozen=True)
class _Span:
    """One axis of a rectangle on a level: ``count`` pixels from level-0 ``location``, of which [start, stop) is meant."""

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
    """Whole pixels where their edges meet the rectangle's to within the tolerance, else the pixels that cover it."""
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
    """The mean of the rows between each two edges; fractional rows count by their fraction."""
    total = np.zeros((pixels.shape[0] + 1, *pixels.shape[1:]), np.float64)
    np.cumsum(pixels, axis=0, dtype=np.float64, out=total[1:])
    below = np.minimum(edges.astype(np.int64), pixels.shape[0] - 1)
    share = (edges - below)[:, None, None]
    at_edges = total[below] + share * pixels[below]
    means: NDArray[np.float64] = np.diff(at_edges, axis=0) / np.diff(edges)[:, None, None]
    return means


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


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _resolution(
    path: Path, properties: Mapping[str, str], given: float | None, default: float | None
) -> tuple[float, MppSource]:
    """um per level-0 pixel and where it comes from: given, else recorded, else the default; never guessed."""
    for value in (given, default):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SlideError(f"{path.name}: a resolution of {value} um/px was given", "give a positive number")
    if given is not None:
        return given, "given"
    try:
        return _recorded_resolution(path, properties)
    except _NoResolutionError as missing:
        if default is not None:
            return default, "given"
        remedy = "give it with --slide-mpp, or as column mpp of --list"
        raise SlideError(f"{path.name} records {missing}", remedy) from missing


class _NoResolutionError(Exception):
    """What a slide records instead of a usable resolution."""


def _recorded_resolution(path: Path, properties: Mapping[str, str]) -> tuple[float, MppSource]:
    """The vendor's record, else the TIFF's tags.

    A generic TIFF's ``openslide.mpp`` is what OpenSlide makes of the tags, so there the tags themselves are judged.
    """
    recorded = [properties[name] for name in ("openslide.mpp-x", "openslide.mpp-y") if name in properties]
    if len(recorded) == 2 and properties.get("openslide.vendor") != "generic-tiff":
        return _square(path, *map(_credible, recorded)), "openslide"
    tags = _tiff_resolution(path)
    if tags is None:
        raise _NoResolutionError("no resolution")
    return _square(path, *tags), "tiff"


def _credible(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise _NoResolutionError(f"a resolution of {text} um/px, which is none")
    low, high = _MPP_BELIEVED
    if not low <= value <= high:
        raise _NoResolutionError(f"{value:.4g} um/px, which is outside {low:g} to {high:g} and counts as none")
    return value


def _square(path: Path, mpp_x: float, mpp_y: float) -> float:
    if max(mpp_x, mpp_y) > min(mpp_x, mpp_y) * _SQUARE_TOLERANCE:
        raise SlideError(
            f"{path.name} has oblong pixels: {mpp_x:.4g} um/px across, {mpp_y:.4g} down",
            "resample it to square pixels, or give one resolution as column mpp of --list if the record is wrong",
        )
    return (mpp_x + mpp_y) / 2


def _tiff_resolution(path: Path) -> tuple[float, float] | None:
    """(x, y) um per pixel from XResolution, YResolution and ResolutionUnit; None where they say nothing credible."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            unit, x, y = (tags.valueof(name) for name in ("ResolutionUnit", "XResolution", "YResolution"))
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError):
        return None
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(unit)
    if um_per_unit is None or not x or not y or not all((*x, *y)):
        return None
    mpp_x, mpp_y = (um_per_unit * denominator / numerator for numerator, denominator in (x, y))
    written_by_software = any(math.isclose(mpp_x, 25_400 / dpi, rel_tol=1e-4) for dpi in _DPI_OF_SOFTWARE)
    credible = all(_MPP_BELIEVED[0] <= value <= _MPP_BELIEVED[1] for value in (mpp_x, mpp_y))
    return (mpp_x, mpp_y) if credible and not written_by_software else None


def _unknown_format_remedy(path: Path) -> str:
    if path.stat().st_size == 0:
        return "the file is empty; copy it again"
    return "check that it is a whole-slide image and complete; a plain TIFF must be tiled"
