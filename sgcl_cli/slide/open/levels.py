"""Checks by size and by content that an image is a reduced copy of another."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 128  # pixels, side of the windows that are compared
_CONTRAST = 8.0  # grey levels; windows with less contrast cannot be compared
_LEAST_CORRELATION = 0.5  # near 1 for a copy, near 0 for another place or image
_PIXELS = 1.0  # tolerance of each side of a reduced copy, since scanners round up or down


def mismatch(size: tuple[int, int], reduced: tuple[int, int]) -> str:
    """Why a size is not that of a reduced copy: no single factor explains both sides to within a pixel; "" if one does.

    Levels that are padded to whole tiles, and photographs of the glass that are flagged as levels, have two different factors, so
    their pixels would be taken for other places of the slide.

    :param size: (width, height) of level 0, pixels.
    :param reduced: (width, height) of the level, pixels.
    """
    low = max(whole / (side + _PIXELS) for whole, side in zip(size, reduced, strict=True))
    high = min(whole / max(side - _PIXELS, 1e-9) for whole, side in zip(size, reduced, strict=True))
    if low <= high:
        return ""
    across, down = (whole / side for whole, side in zip(size, reduced, strict=True))
    return f"{reduced[0]} x {reduced[1]} pixels are a reduction by {across:.4g} in width and by {down:.4g} in height"


def contrast(rgb: NDArray[np.uint8]) -> float:
    """Standard deviation of the mean of the three channels of an image, uint8 (H, W, 3), grey levels."""
    return float(rgb.mean(axis=2).std())


def differs(window: NDArray[np.uint8], finer: NDArray[np.uint8]) -> bool:
    """Whether a window of a level differs in content from the same place of a finer level; False if both lack contrast.

    :param window: uint8 (h, w, 3).
    :param finer: uint8 (H, W, 3), the same place at a higher resolution.
    """
    height, width = window.shape[:2]
    reduced = np.asarray(cv2.resize(finer, (width, height), interpolation=cv2.INTER_AREA))
    low, high = sorted((contrast(window), contrast(reduced)))
    if low < _CONTRAST:
        return high > 2 * low + _CONTRAST
    pair = np.corrcoef(window.mean(axis=2).ravel(), reduced.mean(axis=2).ravel())
    return bool(pair[0, 1] < _LEAST_CORRELATION)
