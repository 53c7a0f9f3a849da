"""What lies on a slide besides tissue: ink of any colour, black borders, and the lines of coverslips and bubbles.

Ink is told by two things. It has hues that no stain of tissue has at such strength; and a stroke is denser and more even than
any tissue, whatever its colour. The first needs to know the stain, the second needs no colour.

Densities are optical densities above glass, float32 (H, W, 3) of red, green, blue; lengths in um; masks bool (H, W).
"""

from __future__ import annotations

import cv2
import numpy as np

from sgcl_cli.slide import morphology
from sgcl_cli.slide.density import BLUE, GREEN, RED, Image, box_spread, coherence
from sgcl_cli.slide.morphology import Mask

BLACK = 1.5  # density in every channel
_BLACK_AREA = 50_000.0  # um^2; smaller black spots are pigment or chromogen

_EVEN = 0.05  # spread of absorbed light over its mean within such a width; tissue is more uneven
_EVEN_WIDTH = 40.0
_STROKE_AREA = 30_000.0  # um^2
_EVEN_MPP = 16.0  # where pixels are larger, cells average out and tissue is even too
_HUED_AREA = 5_000.0  # um^2; where glass is stained itself, dense nuclei may reach that hue
_DENSE_INK = 0.8
_DENSE_HUED_INK = 0.4
_MARGIN = 32.0  # of faded edges
_STROKE_MARGIN = 48.0  # more: what is even ends before the edge
_FAR_BLUE = (0.25, 1.25)  # red over green absorption, difference and ratio: blue and green ink
_FAR_RED = (0.5, 0.8)  # blue over red absorption, and blue relative to green: red, orange and yellow ink

_LINE_SCALE = 24.0
_LINE_WIDTH = 80.0
_THIN = 0.5  # of the density is not left by an opening of that width
_COHERENT = 0.85
_NEUTRAL = 0.25  # between channels, as a share of the strongest
_LINE_MARGIN = 24.0


def black_mask(density: Image, mpp: float) -> Mask:
    """Black borders, padding and ink; ``density`` may be the plain optical density."""
    dark = cv2.GaussianBlur(density, (0, 0), 1.0).min(axis=2) > BLACK
    return morphology.dilate(morphology.pieces(dark, _BLACK_AREA / mpp**2), _MARGIN / mpp)


def ink_mask(above: Image, mpp: float, stained: Mask, densest_stain: float) -> Mask:
    """Strokes of a pen that are even, whatever their colour, and what of an ink's hue goes on from them.

    :param stained: where the colour is one that the stain has.
    :param densest_stain: the density beyond which even areas of the stain's own colour are ink.
    """
    soft = cv2.GaussianBlur(above, (0, 0), 1.0)
    hued = far_blue(soft)
    if mpp > _EVEN_MPP:
        return np.zeros_like(hued)
    least = np.where(stained, densest_stain, np.where(hued, _DENSE_HUED_INK, _DENSE_INK))
    side = round(_EVEN_WIDTH / mpp) | 1
    absorbed = -np.expm1(-above.max(axis=2))
    even = box_spread(absorbed, side) < _EVEN * cv2.blur(absorbed, (side, side))
    strokes = morphology.opened((soft.max(axis=2) > least) & even, _EVEN_WIDTH / mpp)
    strokes = morphology.pieces(strokes, _STROKE_AREA / mpp**2)
    return morphology.dilate(morphology.pieces_holding(strokes | hued, strokes, 0), _STROKE_MARGIN / mpp)


def hue_mask(above: Image, mpp: float) -> Mask:
    """Ink of a hue that H&E does not have: all that is blue or green, and strokes of red, orange and yellow."""
    soft = cv2.GaussianBlur(above, (0, 0), 1.0)
    red = soft[..., BLUE] - soft[..., RED] > _FAR_RED[0]
    red &= soft[..., BLUE] > _FAR_RED[1] * soft[..., GREEN]
    strokes = morphology.pieces(morphology.opened(red, _EVEN_WIDTH / mpp), _STROKE_AREA / mpp**2)
    blue = morphology.pieces(far_blue(soft), _HUED_AREA / mpp**2)
    return morphology.dilate(blue | morphology.pieces_holding(red, strokes, 0), _MARGIN / mpp)


def far_blue(above: Image) -> Mask:
    """Absorbs red so much more than green that haematoxylin cannot be it."""
    red, green = above[..., RED], above[..., GREEN]
    return np.asarray((red - green > _FAR_BLUE[0]) & (red > _FAR_BLUE[1] * green))


def line_mask(above: Image, mpp: float) -> Mask:
    """Colourless thin lines that go one way, glass on both sides: coverslips, rims of bubbles, scratches, fibres."""
    soft = cv2.GaussianBlur(above, (0, 0), max(1.0, _LINE_SCALE / mpp / 2))
    neutral = np.ptp(soft, axis=2) < _NEUTRAL * np.abs(soft).max(axis=2)
    green = above[..., GREEN]
    side = max(5, round(_LINE_WIDTH / mpp) | 1)
    broad = cv2.morphologyEx(green, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    thin = green - broad > _THIN * green
    one_way = coherence(green, max(1.0, _LINE_SCALE / mpp)) > _COHERENT
    return morphology.dilate(neutral & thin & one_way, _LINE_MARGIN / mpp)
