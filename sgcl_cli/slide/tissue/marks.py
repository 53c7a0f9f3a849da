"""Detection of what is not tissue: pen ink of any colour, black borders, and lines of coverslips and bubbles.

Ink is recognised by two properties: hues that no stain reaches at such a density, which depends on the stain; and strokes that
are dense and uniform, which depends on no colour. Packed tissue is as dense and, on a thumbnail, as uniform, so candidate
strokes are checked at a finer resolution, at which tissue shows cells (``structure``).

Densities are optical densities relative to glass, float32 (H, W, 3) in the order red, green, blue; lengths are in µm; masks are
bool (H, W).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from sgcl_cli.slide.tissue import morphology
from sgcl_cli.slide.tissue.density import (
    BLUE,
    GREEN,
    RED,
    Density,
    Image,
    box_spread,
    coherence,
    colour,
    in_strips,
    strongest,
    weakest,
)
from sgcl_cli.slide.tissue.morphology import Mask
from sgcl_cli.slide.tissue.structure import FinerLook, structured

_HALO = 8  # pixels

BLACK = 1.5  # density in every channel
_BLACK_AREA = 50_000.0  # µm²; smaller black spots are pigment or chromogen

_EVEN = 0.05  # coefficient of variation of the absorbed light within ``_EVEN_WIDTH``; only packed tissue is as uniform
_EVEN_WIDTH = 40.0
_STROKE_AREA = 30_000.0  # µm²
_EVEN_MPP = 16.0  # at coarser resolutions cells average out, and all tissue is uniform
_HUED_AREA = 5_000.0  # µm²; on stained glass single dense nuclei may reach that hue
_DENSE_INK = 0.8
_DENSE_HUED_INK = 0.4
_MARGIN = 32.0  # of faded edges
_STROKE_MARGIN = 48.0  # larger, since the uniform part of a stroke ends before its edge
_FAR_BLUE = (0.25, 1.25)  # red minus green and red over green density: blue and green ink
_FAR_RED = (0.5, 0.8)  # blue minus red and blue over green density: red, orange and yellow ink

_LINE_SCALE = 24.0
_LINE_WIDTH = 80.0
_THIN = 0.5  # share of the density that an opening of ``_LINE_WIDTH`` removes
_COHERENT = 0.85
_NEUTRAL = 0.25  # range of the channels as a share of the strongest
_LINE_MARGIN = 24.0


def black_mask(density: Image | Density, mpp: float, finer: FinerLook | None = None) -> tuple[Mask, Mask]:
    """Black borders or padding, which touch the image's edge, and black ink inside; glass need not be subtracted.

    :param finer: reader of finer pixels; pieces that show cells there are densely stained or pigmented tissue and not ink.
    """
    dark = in_strips(lambda part: np.asarray(weakest(_soft(part)) > BLACK), density, _HALO)
    large = morphology.pieces(dark, _BLACK_AREA / mpp**2)
    border = morphology.pieces_holding(large, _rim(large.shape), 0)
    inside = large & ~border
    if finer is not None and inside.any():
        inside = morphology.pieces(inside & ~structured(inside, mpp, finer), _BLACK_AREA / mpp**2)
    return morphology.dilate(border, _MARGIN / mpp), morphology.dilate(inside, _MARGIN / mpp)


def ink_mask(
    above: Image | Density,
    mpp: float,
    stained: Callable[[Image], Mask],
    densest_stain: float,
    finer: FinerLook | None = None,
) -> Mask:
    """Uniform strokes of any colour, and connected areas with a hue of ink.

    :param stained: returns the mask of densities with a colour of the stain.
    :param densest_stain: density above which uniform areas with a colour of the stain are ink.
    :param finer: reader of finer pixels; areas that show cells there are not ink. Without it the thumbnail alone decides.
    """
    if mpp > _EVEN_MPP:
        return np.zeros(above.shape[:2], np.bool_)
    side = round(_EVEN_WIDTH / mpp) | 1

    def dense_and_even(part: Image) -> Mask:
        soft = _soft(part)
        least = np.where(stained(part), densest_stain, np.where(far_blue(soft), _DENSE_HUED_INK, _DENSE_INK))
        absorbed = -np.expm1(-strongest(part))
        even = box_spread(absorbed, side) < _EVEN * cv2.blur(absorbed, (side, side))
        return np.asarray((strongest(soft) > least) & even)

    def stroke(even: Mask) -> Mask:
        return morphology.pieces(morphology.opened(even, _EVEN_WIDTH / mpp), _STROKE_AREA / mpp**2)

    strokes = stroke(in_strips(dense_and_even, above, _HALO + side))
    if finer is not None and strokes.any():
        strokes = stroke(strokes & ~structured(strokes, mpp, finer))
    if not strokes.any():
        return strokes
    hued = in_strips(lambda part: far_blue(_soft(part)), above, _HALO)
    return morphology.dilate(morphology.pieces_holding(strokes | hued, strokes, 0), _STROKE_MARGIN / mpp)


def hue_mask(above: Image | Density, mpp: float) -> Mask:
    """Ink of a hue that H&E does not have: all blue or green areas, and red, orange or yellow strokes."""
    hued = morphology.pieces(in_strips(lambda part: far_blue(_soft(part)), above, _HALO), _HUED_AREA / mpp**2)
    red = in_strips(lambda part: far_red(_soft(part)), above, _HALO)
    strokes = morphology.pieces(morphology.opened(red, _EVEN_WIDTH / mpp), _STROKE_AREA / mpp**2)
    hued |= morphology.pieces_holding(red, strokes, 0)
    return morphology.dilate(hued, _MARGIN / mpp)


def hued_mask(above: Image | Density, mpp: float) -> Mask:
    """All areas of a hue that H&E does not have, strokes or not, without margins."""
    hued = in_strips(lambda part: far_red(_soft(part)) | far_blue(_soft(part)), above, _HALO)
    return morphology.pieces(hued, _HUED_AREA / mpp**2)


def far_blue(above: Image) -> Mask:
    """Pixels that absorb more red relative to green than haematoxylin can."""
    red, green = above[..., RED], above[..., GREEN]
    return np.asarray((red - green > _FAR_BLUE[0]) & (red > _FAR_BLUE[1] * green))


def far_red(above: Image) -> Mask:
    """Pixels that absorb more blue relative to red and green than eosin can."""
    blue = above[..., BLUE]
    return np.asarray((blue - above[..., RED] > _FAR_RED[0]) & (blue > _FAR_RED[1] * above[..., GREEN]))


def line_mask(above: Image | Density, mpp: float) -> Mask:
    """Thin, straight, colourless lines with glass on both sides: edges of coverslips, rims of bubbles, scratches, fibres."""
    scale = max(1.0, _LINE_SCALE / mpp)
    side = max(5, round(_LINE_WIDTH / mpp) | 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))

    def thin_and_straight(part: Image) -> Mask:
        soft = cv2.GaussianBlur(part, (0, 0), max(1.0, scale / 2))
        neutral = colour(soft) < _NEUTRAL * strongest(np.abs(soft))
        green = np.ascontiguousarray(part[..., GREEN])
        thin = green - cv2.morphologyEx(green, cv2.MORPH_OPEN, disc) > _THIN * green
        return np.asarray(neutral & thin & (coherence(green, scale) > _COHERENT))

    lines = in_strips(thin_and_straight, above, 6 * scale + side)
    return morphology.dilate(lines, _LINE_MARGIN / mpp)


def _rim(shape: tuple[int, ...]) -> Mask:
    """The outermost pixels of an image."""
    rim = np.ones(shape, np.bool_)
    rim[1:-1, 1:-1] = False
    return rim


def _soft(density: Image) -> Image:
    """Densities smoothed by a Gaussian of one pixel, against noise of single pixels."""
    return np.asarray(cv2.GaussianBlur(density, (0, 0), 1.0))
