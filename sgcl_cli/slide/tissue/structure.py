"""Cell-scale structure in dense areas of a thumbnail, measured at a finer resolution.

At 8 µm per pixel nuclei average out, and packed tissue is as uniform as ink. At 2 µm per pixel most pixels of tissue differ
from their surroundings by several grey levels, however dense it is, while ink varies by no more than the scanner's noise. The
measure is in grey levels, not in density, which would amplify noise where ink absorbs nearly all light; and it is a share of
pixels, not a variance, so that the edge of a stroke does not count as structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.tissue.density import Image
from sgcl_cli.slide.tissue.morphology import Mask

MPP = 2.0  # µm per pixel at which structure is measured
COARSEST = 4.0  # µm per pixel; at coarser resolutions cells cannot be recognised

_CELL = (1.5, 5.0)  # µm, standard deviations of the difference of Gaussians that passes structure of the size of cells
_DIFFERS = 2.5  # grey levels; noise of scanners and of JPEG is lower
_SHARE = 0.5  # of the pixels in a window; 0.7 to 0.9 in packed tissue, less than 0.4 in ink
_WINDOW = 40.0  # µm, side of the window
_COLOUR_SCALE = 16.0  # µm, standard deviation
_REACH = 64.0  # µm, distance up to which pixels affect the measure
_BLOCK = 128  # thumbnail pixels, side of an area that is read at once

Read = Callable[[tuple[int, int, int, int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class FinerLook:
    """A reader of a slide at a finer resolution than its thumbnail.

    :ivar factor: finer pixels per thumbnail pixel, along each axis.
    :ivar read: from (left, top, right, bottom) in thumbnail pixels to uint8 (factor * height, factor * width, 3).
    """

    factor: int
    read: Read


def structured(places: Mask, mpp: float, finer: FinerLook) -> Mask:
    """The pixels of ``places``, bool (H, W), that show cells; unreadable ones are included, as there is no evidence of ink.

    :param mpp: µm per pixel of ``places``.
    """
    found = np.zeros_like(places)
    margin = math.ceil(_REACH / mpp)
    height, width = places.shape
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            rows, columns = np.nonzero(places[top : top + _BLOCK, left : left + _BLOCK])
            if not len(rows):
                continue
            box = left + int(columns.min()), top + int(rows.min()), left + int(columns.max()), top + int(rows.max())
            begin_x, begin_y = max(0, box[0] - margin), max(0, box[1] - margin)
            end_x, end_y = min(width, box[2] + 1 + margin), min(height, box[3] + 1 + margin)
            try:
                pixels = finer.read((begin_x, begin_y, end_x, end_y))
                cells = share_of_cells(pixels, mpp / finer.factor, (end_x - begin_x, end_y - begin_y)) > _SHARE
            except SlideError:
                cells = np.ones((end_y - begin_y, end_x - begin_x), np.bool_)
            inside = np.s_[box[1] : box[3] + 1, box[0] : box[2] + 1]
            found[inside] |= cells[box[1] - begin_y : box[3] + 1 - begin_y, box[0] - begin_x : box[2] + 1 - begin_x]
    return found & places


def share_of_cells(rgb: NDArray[np.uint8], mpp: float, size: tuple[int, int]) -> Image:
    """Share of the pixels in a window that differ from their surroundings, in the locally darkest channel.

    :param rgb: uint8 (H, W, 3) at ``mpp`` µm per pixel.
    :param size: (width, height) of the result, pixels.
    :returns: float32 (height, width), 0 to 1.
    """
    light = rgb.astype(np.float32)
    darkest = cv2.GaussianBlur(light, (0, 0), _COLOUR_SCALE / mpp).argmin(axis=2)
    channel = np.ascontiguousarray(np.take_along_axis(light, darkest[..., None], 2)[..., 0])
    fine, coarse = (cv2.GaussianBlur(channel, (0, 0), max(0.3, sigma / mpp)) for sigma in _CELL)
    side = round(_WINDOW / mpp) | 1
    share = cv2.blur((np.abs(fine - coarse) > _DIFFERS).astype(np.float32), (side, side))
    return np.asarray(cv2.resize(share, size, interpolation=cv2.INTER_AREA), np.float32)
