"""The size of dark blobs of a slide, nuclei as a rule, as a check of a resolution given by the user.

The size is the median of a granulometry (Matheron 1975, "Random Sets and Integral Geometry"): the diameter of the disc whose
opening removes half of the dark area. Noise has little area and clumps are as wide as their nuclei, so neither affects it much.
On 13 real slides it is 3.8 to 5.1 µm at 0.25 to 0.5 µm per pixel, and up to 8.7 µm at coarser resolutions, where it cannot fall
below about eight pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.slide.tissue.density import RED, optical_density

SIDE = 512  # pixels of level 0, side of a sampled place
PLACES = 18  # at most

USUAL = 4.8  # µm
MOST_OFF = 2.5  # largest plausible ratio to ``USUAL``, either way
_BLURRED = 12.0  # pixels; on coarse slides blobs are up to that wide, whatever they are
_DIAMETERS = (3, 5, 7, 9, 11, 13, 15, 19, 23, 27, 33, 39, 47)  # pixels
_CONTRAST = 0.2  # smallest difference of red density between dark and other pixels for a place with nuclei
_LEAST_PLACES, _ENOUGH_PLACES = 3, 6


def diameter(places: Iterable[NDArray[np.uint8]]) -> float | None:
    """Median diameter of dark blobs over some places of a slide, pixels; None if too few places have any.

    :param places: uint8 (H, W, 3) of level 0.
    """
    found: list[float] = []
    for size in map(_of_place, places):
        found += [] if size is None else [size]
        if len(found) == _ENOUGH_PLACES:
            break
    return float(np.median(found)) if len(found) >= _LEAST_PLACES else None


def implausible(size: float, mpp: float) -> bool:
    """Whether nuclei of ``size`` pixels at ``mpp`` µm per pixel are too large or too small by more than ``MOST_OFF`` times."""
    too_small = size * mpp < USUAL / MOST_OFF
    return too_small or (size * mpp > USUAL * MOST_OFF and size > _BLURRED)


def _of_place(rgb: NDArray[np.uint8]) -> float | None:
    red = cv2.GaussianBlur(np.ascontiguousarray(optical_density(rgb)[..., RED]), (0, 0), 1.0)
    levels = np.clip(red * 128, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    dark = levels > threshold
    if not dark.any() or dark.all() or float(red[dark].mean() - red[~dark].mean()) < _CONTRAST:
        return None
    area, left = int(dark.sum()), [1.0]
    for side in _DIAMETERS:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        left.append(float(cv2.morphologyEx(dark.astype(np.uint8), cv2.MORPH_OPEN, disc).sum()) / area)
        if left[-1] < 0.5:
            break
    return float(np.interp(-0.5, -np.array(left), (1, *_DIAMETERS)[: len(left)]))
