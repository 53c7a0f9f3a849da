"""Area averaging onto a patch's own pixel grid, and how a patch lies on the pixels it is made from.

A *source* is a grid of pixels, ``pitch`` level-0 pixels apart. A patch pixel covers ``scale`` source pixels. A patch is cut
from a window of whole source pixels: the window begins ``skip`` patch pixels before the patch, at a place where the edges
of both grids meet, so that nothing has to be shifted by a fraction of a pixel. Where they never meet nearby, as when ``scale``
is 1, the window is shifted by a mix of neighbouring pixels, which for whole scales is the area average too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 64  # patch pixels, the largest skip
_CLOSE = 0.25  # level-0 pixels; a patch is met to within twice that, half a pixel, at both edges
_ROUNDING = 1e-6
_NUDGE = 1e-9  # where edges meet exactly, OpenCV's rounding may take the pixel before


@dataclass(frozen=True)
class Axis:
    """How patches are cut from a source along one axis.

    :ivar scale: source pixels per patch pixel.
    :ivar start: int64 (N,), first source pixel of each window.
    :ivar count: int64 (N,), source pixels of each window.
    :ivar skip: int64 (N,), patch pixels in each window before the patch.
    :ivar shift: float64 (N,), source pixels in [0, 1) by which the window's content is moved to its beginning.
    :ivar fits: bool (N,), whether the window lies in the source.
    """

    scale: float
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    skip: NDArray[np.int64]
    shift: NDArray[np.float64]
    fits: NDArray[np.bool_]


def align(corners: NDArray[np.float64], extent: float, size: int, pitch: float, limit: int) -> Axis:
    """Find windows for patches along one axis; each edge of the field of view is met to within half a level-0 pixel.

    :param corners: float64 (N,), level-0 pixels from the source's origin.
    :param extent: level-0 pixels that a patch covers.
    :param size: patch pixels.
    :param limit: pixels of the source.
    """
    scale = extent / (size * pitch)
    whole = max(1, round(scale))
    if abs(whole - scale) * size * pitch <= _CLOSE:
        scale = float(whole)
    skips = np.arange(MARGIN + 1)
    wanted = corners[:, None] / pitch - skips * scale
    starts = np.rint(wanted).astype(np.int64)
    counts = np.ceil((skips + size) * scale - _ROUNDING).astype(np.int64)
    meets = (np.abs(starts - wanted) * pitch <= _CLOSE) & (starts >= 0) & (starts + counts <= limit)
    skip = meets.argmax(axis=1)
    rows = np.arange(len(corners))
    met = meets[rows, skip]
    before = np.floor(corners / pitch + _ROUNDING)
    start = np.where(met, starts[rows, skip], before.astype(np.int64))
    count = np.where(met, counts[skip], counts[0] + 1)
    shift = np.where(met, 0.0, np.maximum(0.0, corners / pitch - before))
    return Axis(scale, start, count, skip, shift, (start >= 0) & (start + count <= limit))


def average(
    pixels: NDArray[np.uint8],
    scale: float,
    size: tuple[int, int],
    skip: tuple[int, int] = (0, 0),
    shift: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """The mean over the area of each patch pixel, exact but for rounding to 8 bits.

    An interval of at most one pixel touches at most two, which OpenCV weighs by their shares on its fast path. A longer one,
    of up to two pixels, is the mean of its two halves.

    :param pixels: uint8 (H, W, 3), a window.
    :param scale: window pixels per patch pixel.
    :param size: (width, height) of the patch.
    :param skip: (columns, rows) of patch pixels that are cut off at the beginning.
    :param shift: (across, down) the content is moved to the beginning by so much of a pixel.
    :returns: uint8 (height, width, 3).
    """
    if shift[0]:
        pixels = cv2.addWeighted(pixels[:, :-1], 1 - shift[0], pixels[:, 1:], shift[0], 0)
    if shift[1]:
        pixels = cv2.addWeighted(pixels[:-1], 1 - shift[1], pixels[1:], shift[1], 0)
    width, height = skip[0] + size[0], skip[1] + size[1]
    if scale != 1:
        parts = 2 if 1 < scale < 2 else 1
        factor = parts / (scale * (1 + _NUDGE))
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        if parts == 2:
            pixels = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(pixels[skip[1] : height, skip[0] : width])


def fit(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """All of ``pixels``, uint8 (H, W, 3), averaged onto (width, height) pixels; enlarged along neither axis."""
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
