"""Segmentation of tissue on a thumbnail. Pure functions of arrays.

Glass, smears of stain, scanner borders and filled-in gaps are smooth, whatever their colour; tissue is textured even if the
stain is faint or dense. Tissue is therefore detected by the local standard deviation of the optical density of green light,
which every histological stain absorbs. Other textured areas are excluded by colour, as far as the stain, given by the preset,
allows:

======  ==================================  ===============================================================
preset  tissue is                           ink is
======  ==================================  ===============================================================
he      purple to pink, at every pixel      uniform and dense areas, and any hue that H&E does not have
ihc     of some colour, in every piece      uniform and dense areas, and connected blue or green ones
faint   textured; any colour, or none       the same
======  ==================================  ===============================================================

Uniform and dense areas of a thumbnail may be packed tissue, which is distinguished from ink by its cells at a finer resolution
(``structure``). Arrays are (row, column); lengths are in µm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.config import choices
from sgcl_cli.slide.tissue import marks, morphology
from sgcl_cli.slide.tissue.density import (
    BLUE,
    GREEN,
    RED,
    Density,
    Image,
    box_spread,
    colour,
    in_strips,
    spread,
    strongest,
)
from sgcl_cli.slide.tissue.morphology import Mask
from sgcl_cli.slide.tissue.structure import FinerLook

Preset = choices.Stain
Choice = choices.StainChoice
Ink = choices.Ink

MIN_AREA = 20_000.0  # µm²
MAX_HOLE = 6_000.0  # µm²

_SMOOTH_WIDTH = 40.0  # µm; narrower smooth spots belong to the tissue around them
_GLASS_DENSITY = 0.4  # usual upper limit of the density of glass
_LEAST_GLASS = 0.01  # of the image; if less is below ``_GLASS_DENSITY``, a darker background is taken for glass
_DENSE = 0.35  # relative to glass; no smear is as dense
_COLOURED = 0.15  # range of the channels' densities; no scanner's background is as coloured
_ROUGHEST = (1e-3, 0.5)  # limits of the standard deviation in the map of texture
_HALO = 8  # pixels
_FINE_SPREAD = 0.02  # standard deviation within 3 x 3 pixels; that of dust out of focus is lower
_FINE_SHARE = 0.15  # of the density; the limit of the standard deviation in faint areas
_IN_FOCUS = 0.25  # smallest share of a piece
_TEXTURE_SCALE = 16.0  # µm
_CLOSING = 24.0  # µm
_OPENING = 24.0  # µm

_PINK = (1.15, 1.2)  # smallest ratios of green to red and to blue density: eosin, but no stain of immunohistochemistry
_LEAST_PINK = 0.15  # smallest share of stained tissue in H&E
_FAINT = 0.12  # upper limit of the median density of the strongest channel on faint slides
_HE_HUE = (
    0.03,
    0.85,
    0.75,
)  # least green minus blue density; least green over red, for stain and for every pixel of tissue
_STRONG_HUE = 1.2  # ratio between channels
_BROWN = 0.9  # least blue over green density of brown and red chromogens
_BLUEST = 2.0  # largest green over red density of a counterstain
_HUE = (0.02, 0.12)  # least range of the channels, and as a share of the strongest, of a coloured pixel
_LEAST_HUE = 0.2  # smallest share of a piece
_DIRT, _MOST_DIRT = (
    0.2,
    0.1,
)  # dirt in faint tissue: density above which colourless pixels are dirt, largest share of a piece


@dataclass(frozen=True)
class _Limits:
    """Thresholds of a preset.

    :ivar smooth: upper limit of the standard deviation within 3 x 3 pixels of glass, with JPEG noise.
    :ivar texture: bounds of Otsu's threshold on the local standard deviation of optical density.
    :ivar share: of the median density of textured areas; pixels with less are glass.
    :ivar density: bounds of the density that follows from ``share``.
    :ivar densest: density above which uniform areas with a colour of the stain are ink.
    """

    smooth: float
    texture: tuple[float, float]
    share: float
    density: tuple[float, float]
    densest: float


_LIMITS: dict[Preset, _Limits] = {
    "he": _Limits(0.0065, (0.012, 0.03), 0.15, (0.03, 0.12), 1.3),
    "ihc": _Limits(0.0065, (0.012, 0.03), 0.15, (0.03, 0.12), 1.6),
    "faint": _Limits(0.0045, (0.007, 0.015), 0.15, (0.015, 0.06), 1.6),
}


@dataclass(frozen=True)
class Segmentation:
    """Masks of a thumbnail.

    :ivar tissue: bool (H, W), without pen marks and black borders.
    :ivar pen: bool (H, W), pen marks and black borders, with a margin for their faded edges.
    :ivar ink: bool (H, W), pen marks only, with the same margin; under ``he`` also areas excluded by their hue.
    :ivar preset: the preset used, also if it was chosen automatically.
    """

    tissue: Mask
    pen: Mask
    ink: Mask
    preset: Preset


def segment(
    rgb: NDArray[np.uint8],
    mpp: float,
    *,
    preset: Choice = "auto",
    min_area: float = MIN_AREA,
    max_hole: float = MAX_HOLE,
    ink: Ink = "auto",
    finer: FinerLook | None = None,
) -> Segmentation:
    """Segment tissue, pen marks and black borders.

    :param rgb: uint8 (H, W, 3), a whole slide reduced to about 8 µm per pixel.
    :param mpp: µm per pixel of ``rgb``.
    :param preset: the kind of stain; ``auto`` chooses by the colours of textured areas.
    :param min_area: smaller pieces are dropped, µm².
    :param max_hole: holes up to this area are filled, µm².
    :param ink: whether pen marks are detected; black borders, and the preset's range of colours, apply in any case.
    :param finer: reader of finer pixels, by which packed tissue is distinguished from ink; without it, it may be taken for ink.
    """
    plain = Density(rgb)
    border, black_ink = marks.black_mask(plain, mpp, finer)
    black = border | black_ink if ink == "auto" else border
    smooth = _smooth(plain, mpp, _LIMITS["he"].smooth)
    density = plain.above(_glass(plain, smooth & ~(border | black_ink)), black)
    del border
    levels = _texture(density, mpp)
    none = np.zeros_like(black)
    as_he = _ink(density, mpp, "he", finer) if preset in ("auto", "he") and ink == "auto" else none
    chosen = _choose(density, levels, smooth, black | as_he, mpp) if preset == "auto" else preset
    if ink == "off":
        marked = none
    elif chosen == "he":
        marked = black_ink | as_he | marks.hue_mask(density, mpp)
    else:
        marked = black_ink | _ink(density, mpp, chosen, finer)
    pen = black | marked
    if chosen == "faint":
        smooth = _smooth(density, mpp, _LIMITS["faint"].smooth)
    del black_ink, as_he, none
    tissue = _tissue(density, mpp, chosen, levels, smooth | pen)
    del levels, smooth
    filled = morphology.fill_holes(morphology.close(tissue & ~pen, _CLOSING / mpp), max_hole / mpp**2) & ~pen
    large = morphology.pieces(morphology.opened(filled, _OPENING / mpp), min_area / mpp**2)
    kept = _true_pieces(large, density, chosen)
    if chosen == "he" and ink == "auto":
        marked = marked | (marks.hued_mask(density, mpp) & ~kept)
    return Segmentation(kept, pen, marked, chosen)


def _ink(above: Density, mpp: float, preset: Preset, finer: FinerLook | None) -> Mask:
    return marks.ink_mask(above, mpp, lambda part: _stain_like(part, preset), _LIMITS[preset].densest, finer)


def _tissue(above: Density, mpp: float, preset: Preset, levels: NDArray[np.uint8], other: Mask) -> Mask:
    """Textured or dense pixels of a colour that the preset allows; pixels of ``other`` only if they are dense."""
    limits = _LIMITS[preset]
    textured = _textured(above, mpp, levels, limits.texture) & ~other & ~marks.line_mask(above, mpp)
    least = _least_density(_where(_soft_green, above, textured), limits)
    found = (textured & in_strips(lambda part: _soft_green(part) > least, above, _HALO)) | in_strips(_dense, above, 0)
    if preset != "he":
        return np.asarray(found)
    sigma = max(1.0, _TEXTURE_SCALE / mpp)
    coloured = in_strips(lambda part: _he_coloured(cv2.GaussianBlur(part, (0, 0), sigma)), above, 5 * sigma)
    return np.asarray(found & coloured)


def _true_pieces(mask: Mask, above: Density, preset: Preset) -> Mask:
    """Pieces in focus; under ``ihc`` those with some colour, under ``faint`` those without dark dirt."""

    def sharp(part: Image) -> Mask:
        green = _green(part)
        fine = np.minimum(_FINE_SPREAD, _FINE_SHARE * cv2.blur(green, (3, 3))) if preset == "faint" else _FINE_SPREAD
        return np.asarray((box_spread(green) > fine) | _dense(part))

    kept = morphology.pieces_holding(mask, in_strips(sharp, above, _HALO), _IN_FOCUS)
    if preset == "ihc":
        kept = morphology.pieces_holding(kept, in_strips(_coloured, above, 2), _LEAST_HUE)
    if preset == "faint":
        kept = morphology.pieces_holding(kept, ~in_strips(_dirt, above, 2), 1 - _MOST_DIRT)
    return kept


def _choose(above: Density, levels: NDArray[np.uint8], smooth: Mask, pen: Mask, mpp: float) -> Preset:
    """The preset by the colours of textured pixels that are not ink: faint if they are weak, H&E if some are pink, else ihc."""
    limits = _LIMITS["faint"]
    textured = _textured(above, mpp, levels, limits.texture) & ~smooth & ~pen
    textured &= in_strips(lambda part: _soft_green(part) > limits.density[1], above, _HALO)
    strengths = _where(strongest, above, textured)
    if not strengths.size or float(np.median(strengths, overwrite_input=True)) < _FAINT:
        return "faint"
    pink = in_strips(_pink, above, _HALO)[textured].mean()
    return "he" if pink >= _LEAST_PINK else "ihc"


def _pink(above: Image) -> Mask:
    red, green, blue = _channels(cv2.GaussianBlur(above, (0, 0), 1.0))
    return np.asarray((green > _PINK[0] * red) & (green > _PINK[1] * blue))


def _stain_like(above: Image, preset: Preset) -> Mask:
    """Pixels with a hue of the stain: purple to pink in H&E; brown and blue-grey, too, in immunohistochemistry."""
    red, green, blue = _channels(above)
    purple = (green > _STRONG_HUE * blue) & (green > _HE_HUE[1] * red)
    if preset == "he":
        return np.asarray(purple)
    brown = (blue > _BROWN * green) & (blue > _STRONG_HUE * red)
    return np.asarray((purple & (green < _BLUEST * red)) | brown)


def _he_coloured(above: Image) -> Mask:
    red, green, blue = _channels(above)
    return np.asarray((green - blue > np.minimum(_HE_HUE[0], 0.2 * green)) & (green > _HE_HUE[2] * red))


def _coloured(above: Image) -> Mask:
    soft = cv2.blur(above, (3, 3))
    return np.asarray(colour(soft) > np.maximum(_HUE[0], _HUE[1] * strongest(soft)))


def _dirt(above: Image) -> Mask:
    soft = cv2.blur(above, (3, 3))
    return np.asarray((soft[..., GREEN] > _DIRT) & (colour(soft) < _HUE[1] * soft[..., GREEN]))


def _dense(above: Image) -> Mask:
    return np.asarray((above[..., GREEN] > _DENSE) & (colour(above) > _COLOURED))


def _channels(density: Image) -> tuple[Image, Image, Image]:
    return density[..., RED], density[..., GREEN], density[..., BLUE]


def _green(density: Image) -> Image:
    return np.ascontiguousarray(density[..., GREEN])


def _soft_green(density: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(_green(density), (0, 0), 1.0))


def _where(local: Callable[[Image], Image], above: Density, mask: Mask, rows: int = 256) -> Image:
    """``local`` at the pixels of ``mask``, float32 (n,), computed by strips; it may depend on pixels within ``_HALO``."""
    found = [np.zeros(0, np.float32)]
    for top in range(0, len(above), rows):
        begin, bottom = max(0, top - _HALO), min(len(above), top + rows)
        found.append(local(above[begin : bottom + _HALO])[top - begin : bottom - begin][mask[top:bottom]])
    return np.concatenate(found)


def _smooth(density: Density, mpp: float, limit: float) -> Mask:
    """Areas without texture, including lines along which two of them meet."""
    even = in_strips(lambda part: box_spread(_green(part)) < limit, density, _HALO)
    return morphology.close(morphology.opened(even, _SMOOTH_WIDTH / mpp), _SMOOTH_WIDTH / mpp)


def _glass(plain: Density, smooth: Mask) -> Image:
    """The median density of smooth areas, of clear ones if there are enough; 0 if the image shows no glass."""
    clear = smooth & in_strips(lambda part: part[..., GREEN] < _GLASS_DENSITY, plain, 0)
    if clear.mean() < _LEAST_GLASS:
        clear = smooth & in_strips(lambda part: part[..., GREEN] < marks.BLACK, plain, 0)
    glass = plain.median(clear)
    return np.zeros(3, np.float32) if glass is None else glass


def _least_density(textured: Image, limits: _Limits) -> float:
    """The smallest density of stained tissue, in proportion to the median density of the slide."""
    usual = float(np.median(textured, overwrite_input=True)) if textured.size else 0.0
    return float(np.clip(limits.share * usual, *limits.density))


def _roughness(part: Image, mpp: float) -> Image:
    return spread(_green(part), max(1.0, _TEXTURE_SCALE / mpp))


def _texture(above: Density, mpp: float) -> NDArray[np.uint8]:
    """The logarithm of the local standard deviation in 256 steps, uint8 (H, W)."""
    low, high = _ROUGHEST

    def levels(part: Image) -> NDArray[np.uint8]:
        share = np.log(np.maximum(_roughness(part, mpp), low) / low) / np.log(high / low)
        return np.asarray(np.clip(share * 255, 0, 255).astype(np.uint8))

    return in_strips(levels, above, 5 * max(1.0, _TEXTURE_SCALE / mpp), kind=np.uint8)


def _textured(above: Density, mpp: float, levels: NDArray[np.uint8], bounds: tuple[float, float]) -> Mask:
    """Pixels with a local standard deviation above Otsu's threshold on its logarithm, which is kept within ``bounds``, since an
    image with tissue everywhere or nowhere has only one mode."""
    low, high = _ROUGHEST
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    least = float(np.clip(low * (high / low) ** (otsu / 255), *bounds))
    return in_strips(lambda part: _roughness(part, mpp) > least, above, 5 * max(1.0, _TEXTURE_SCALE / mpp))
