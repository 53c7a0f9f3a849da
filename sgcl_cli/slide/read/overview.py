"""Thumbnails of slides that have no small level: straight from their JPEG tiles, each reduced while it is decoded.

OpenSlide would decode such a slide whole. An eighth of a tile's side comes from one coefficient of each JPEG block, which
leaves little but undoing the entropy coding; see ``direct`` for when tiles may be read so.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.slide.open.reader import THUMBNAIL_MPP, THUMBNAIL_SIDE, Slide, Thumbnail
from sgcl_cli.slide.read import area, direct
from sgcl_cli.slide.read.threads import ALONE, Threads
from sgcl_cli.slide.tissue import structure

LARGE = 2**28  # pixels of a level; smaller ones are quickly decoded
_BLOCK = 1024  # decoded pixels a side at once


def thumbnail(slide: Slide, threads: Threads = ALONE) -> Thumbnail:
    """As ``Slide.thumbnail``; edges of what is read at once are met to within half a decoded pixel.

    :raises SlideError: nothing, or too little of the slide can be decoded.
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


def finer(slide: Slide, thumbnail: Thumbnail) -> structure.FinerLook | None:
    """The slide's pixels at about 2 um under its thumbnail; None where level 0 is too coarse to show cells."""
    factor = math.floor(thumbnail.mpp / max(structure.MPP, slide.mpp) + 1e-6)
    if factor < 1 or thumbnail.mpp / factor > structure.COARSEST:
        return None

    def read(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        (left, top, right, bottom), (across, down) = box, thumbnail.scale
        extent = (right - left) * across, (bottom - top) * down
        return slide.region((left * across, top * down), extent, ((right - left) * factor, (bottom - top) * factor))

    return structure.FinerLook(factor, read)
