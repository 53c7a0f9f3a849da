"""Images of whole slides, with fast decoding of slides without a small level.

OpenSlide would decode such a slide at full resolution. JPEG tiles can be decoded at 1/8 from one coefficient per block, which
takes little more than the entropy decoding; see ``direct`` for the conditions.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import THUMBNAIL_MPP, THUMBNAIL_SIDE, Slide, Thumbnail
from sgcl_cli.slide.read import area, direct
from sgcl_cli.slide.read.threads import ALONE, Threads
from sgcl_cli.slide.tissue import structure

LARGE = 2**28  # pixels; levels up to that size are decoded without reduction
_BLOCK = 1024  # decoded pixels, side of a block
_MOST_SHOWN = 3000  # pixels of the longer side of a picture
_SMALL_LEVEL, _SMALL_SLIDE = 2**23, 2**24  # pixels; a level, or a level 0, up to that size is decoded for a picture


def thumbnail(slide: Slide, threads: Threads = ALONE) -> Thumbnail:
    """``Slide.thumbnail``, but from tiles at a reduced scale if the best level is large.

    Edges of blocks are then exact to half a decoded pixel.

    :raises SlideError: nothing, or too little of the slide, can be decoded.
    """
    mpp = max(THUMBNAIL_MPP, slide.mpp * max(slide.size) / THUMBNAIL_SIDE)
    level = slide.best_level(mpp)
    width, height = slide.level_sizes[level]
    if width * height <= LARGE:
        return slide.thumbnail()
    with direct.whole_level(slide, level, mpp) as source:
        if source is None:
            return slide.thumbnail()

        def read(corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
            left, top = (round(place / source.pitch) for place in corner)
            right, bottom = (
                max(start + 1, min(round((place + length) / source.pitch), limit))
                for start, place, length, limit in zip((left, top), corner, extent, source.size, strict=True)
            )
            return area.fit(source.rectangle((left, top, right, bottom), threads), size)

        return slide.thumbnail(read=read, block=_BLOCK * source.pitch)


def picture(slide: Slide, thumbnail: Thumbnail, threads: Threads = ALONE) -> NDArray[np.uint8]:
    """The whole slide for overlays, uint8 (H, W, 3): 1500 to 3000 pixels long if a small level has them, else the thumbnail."""
    level = _level_to_show(slide)
    if level is None:
        return thumbnail.pixels
    longest = max(slide.level_sizes[level])
    factor = next((factor for factor in (1, 2, 4) if longest <= factor * _MOST_SHOWN), 8)
    if longest // factor <= max(thumbnail.pixels.shape):
        return thumbnail.pixels
    try:
        with direct.scaled_level(slide, level, factor) as source:
            if source is not None:
                return _squared(source.rectangle((0, 0, *source.size), threads), slide)
        return _squared(_rendered(slide, level, factor), slide)
    except SlideError:
        return thumbnail.pixels


def _squared(pixels: NDArray[np.uint8], slide: Slide) -> NDArray[np.uint8]:
    """An image with oblong pixels reduced along the finer axis, so that its pixels are square."""
    height, width = pixels.shape[:2]
    across, down = (
        max(1, round(side * mpp / slide.mpp)) for side, mpp in zip((width, height), slide.mpps, strict=True)
    )
    if (across, down) == (width, height):
        return pixels
    return np.asarray(cv2.resize(pixels, (across, down), interpolation=cv2.INTER_AREA), np.uint8)


def _rendered(slide: Slide, level: int, factor: int) -> NDArray[np.uint8]:
    """A level reduced by an integer factor, read in bands; an incomplete last row or column is dropped."""
    width, height = (side // factor for side in slide.level_sizes[level])
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BLOCK):
        rows = min(_BLOCK, height - top)
        location = 0, round(top * factor * slide.downsamples[level])
        band = slide.pixels(level, location, (width * factor, rows * factor))
        pixels[top : top + rows] = cv2.resize(band, (width, rows), interpolation=cv2.INTER_AREA)
    return pixels


def _level_to_show(slide: Slide) -> int | None:
    """The coarsest level that is large enough, else the largest, of those that are fast to decode; None if none is."""
    sizes = {level: size for level, size in enumerate(slide.level_sizes) if level not in slide.unusable}
    most = _SMALL_SLIDE if math.prod(slide.size) <= _SMALL_SLIDE else _SMALL_LEVEL
    quick = [level for level, size in sizes.items() if math.prod(size) <= most]
    enough = [level for level in quick if 2 * max(sizes[level]) > _MOST_SHOWN]
    return max(enough, default=min(quick, default=None))


def finer(slide: Slide, thumbnail: Thumbnail) -> structure.FinerLook | None:
    """A reader of the slide at about 2 µm per pixel in thumbnail coordinates; None if level 0 is too coarse to show cells."""
    factor = math.floor(thumbnail.mpp / max(structure.MPP, slide.mpp) + 1e-6)
    if factor < 1 or thumbnail.mpp / factor > structure.COARSEST:
        return None

    def read(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        (left, top, right, bottom), (across, down) = box, thumbnail.scale
        extent = (right - left) * across, (bottom - top) * down
        return slide.region((left * across, top * down), extent, ((right - left) * factor, (bottom - top) * factor))

    return structure.FinerLook(factor, read)
