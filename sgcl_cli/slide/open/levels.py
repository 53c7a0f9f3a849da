"""Whether an image is a reduced copy of another, as its size and its content tell."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 128  # pixels a side that are compared
_CONTRAST = 8.0  # grey levels; windows with less show nothing by which they could be compared
_LEAST_CORRELATION = 0.5  # of a copy it is near 1, of another place or picture near 0
_PIXELS = 1.0  # by which each side of a reduced copy may be off, since scanners round up or down


def mismatch(size: tuple[int, int], reduced: tuple[int, int]) -> str:
    """Why no single factor explains both sides of ``reduced``, each to about a pixel; "" where one does.

    Levels that are padded to whole tiles, and photographs of the glass that are flagged as levels, shrink by two factors: what
    lies at a place of such an image lies elsewhere on the slide.

    :param size: (width, height) of level 0. :param reduced: of the level, pixels.
    """
    low = max(whole / (side + _PIXELS) for whole, side in zip(size, reduced, strict=True))
    high = min(whole / max(side - _PIXELS, 1e-9) for whole, side in zip(size, reduced, strict=True))
    if low <= high:
        return ""
    across, down = (whole / side for whole, side in zip(size, reduced, strict=True))
    return f"{reduced[0]} x {reduced[1]} pixels are {across:.4g} times fewer across and {down:.4g} down"


def contrast(rgb: NDArray[np.uint8]) -> float:
    """Standard deviation of the grey of an image, uint8 (H, W, 3)."""
    return float(rgb.mean(axis=2).std())


def differs(window: NDArray[np.uint8], finer: NDArray[np.uint8]) -> bool:
    """Whether a window of a level shows something else than the same place of a finer level; False where nothing is seen.

    :param window: uint8 (h, w, 3). :param finer: uint8 (H, W, 3), what should be the same at more pixels.
    """
    height, width = window.shape[:2]
    reduced = np.asarray(cv2.resize(finer, (width, height), interpolation=cv2.INTER_AREA))
    low, high = sorted((contrast(window), contrast(reduced)))
    if low < _CONTRAST:
        return high > 2 * low + _CONTRAST
    pair = np.corrcoef(window.mean(axis=2).ravel(), reduced.mean(axis=2).ravel())
    return bool(pair[0, 1] < _LEAST_CORRELATION)
