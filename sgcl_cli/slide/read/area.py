"""Area averaging of windows of source pixels to patches, and the alignment of these windows.

A *source* is a grid of pixels with a spacing of ``pitch`` level-0 pixels. A patch pixel covers ``scale`` source pixels. A patch
is computed from a window of whole source pixels that begins ``skip`` patch pixels before the patch, where edges of both grids
coincide, so that no subpixel shift is needed. If they do not coincide nearby, as with a ``scale`` of 1, the window is shifted
by linear interpolation, which for integer scales equals the area average.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 64  # patch pixels, the largest skip
_CLOSE = 0.25  # level-0 pixels; both edges of a patch are exact to twice that, half a pixel
_ROUNDING = 1e-6
_NUDGE = 1e-9  # relative; if edges coincide exactly, OpenCV's rounding may include the pixel before


@dataclass(frozen=True)
class Axis:
    """Windows of N patches along one axis of a source.

    :ivar scale: source pixels per patch pixel.
    :ivar start: int64 (N,), first source pixel of each window.
    :ivar count: int64 (N,), source pixels of each window.
    :ivar skip: int64 (N,), patch pixels in each window before the patch.
    :ivar shift: float64 (N,), subpixel shift of the content towards the start of the window, source pixels in [0, 1).
    :ivar fits: bool (N,), whether the window lies within the source.
    """

    scale: float
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    skip: NDArray[np.int64]
    shift: NDArray[np.float64]
    fits: NDArray[np.bool_]


def align(corners: NDArray[np.float64], extent: float, size: int, pitch: float, limit: int) -> Axis:
    """Windows for patches along one axis; both edges of the field of view are exact to half a level-0 pixel.

    :param corners: float64 (N,), level-0 pixels from the source's origin.
    :param extent: side of a patch, level-0 pixels.
    :param size: side of a patch, patch pixels.
    :param pitch: level-0 pixels per source pixel.
    :param limit: length of the source, source pixels.
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
    """The mean over the area of each patch pixel, exact up to rounding to 8 bits.

    OpenCV's fast path covers intervals of at most one pixel, which touch at most two pixels; for a scale between 1 and 2 each
    interval is averaged as two halves.

    :param pixels: uint8 (H, W, 3), a window.
    :param scale: window pixels per patch pixel.
    :param size: (width, height) of the patch, pixels.
    :param skip: (columns, rows) of patch pixels to discard on the left and at the top.
    :param shift: (x, y), subpixel shift of the content to the left and upwards, window pixels.
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
    """An image, uint8 (H, W, 3), area-averaged to (width, height) pixels, which must not exceed its own."""
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
