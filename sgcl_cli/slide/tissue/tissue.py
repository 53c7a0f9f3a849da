"""Where a thumbnail shows tissue. Pure functions of arrays.

Glass, smears of stain, scanner borders and filled-in gaps are smooth, whatever their colour; tissue is textured even where
the stain is faint, or dense. So the decision rests on the local spread of the optical density of green light, which every
histological stain absorbs. What else is textured is told by its colour as far as the stain allows, which the preset says:

======  ==================================  ===============================================================
preset  tissue is                           ink is
======  ==================================  ===============================================================
he      purple to pink, at every place      what is even and dense, and any hue that H&E does not have
ihc     of some colour, in every piece      what is even and dense, and blue or green that goes on from it
faint   textured; any colour, or none       the same
======  ==================================  ===============================================================

What is even and dense on a thumbnail may be packed tissue; a finer look tells it from ink by its cells (``structure``).
Arrays are (row, column); lengths in um.
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

MIN_AREA = 20_000.0  # um^2
MAX_HOLE = 6_000.0  # um^2

_SMOOTH_WIDTH = 40.0  # um; narrower smooth spots belong to the tissue around them
_GLASS_DENSITY = 0.4  # glass is usually clearer than this
_LEAST_GLASS = 0.01  # of the image; where less is as clear, a darker background is glass
_DENSE = 0.35  # above glass: no smear is as dense
_COLOURED = 0.15  # between the densities of two channels: no scanner's background is as coloured
_ROUGHEST = (1e-3, 0.5)  # spreads between which texture is told
_HALO = 8  # pixels
_FINE_SPREAD = 0.02  # within 3 x 3 pixels; dust out of focus stays below
_FINE_SHARE = 0.15  # of the density; what is fainter need not vary more
_IN_FOCUS = 0.25  # least share of a piece
_TEXTURE_SCALE = 16.0  # um
_CLOSING = 24.0  # um
_OPENING = 24.0  # um

_PINK = (1.15, 1.2)  # green over red and over blue absorption: eosin, and nothing that immunohistochemistry uses
_LEAST_PINK = 0.15  # of stained tissue in H&E
_FAINT = 0.12  # the usual density of the strongest channel in faint slides
_HE_HUE = (0.03, 0.85, 0.75)  # least green over blue, difference; least green over red, ratio; the same at every place
_STRONG_HUE = 1.2  # between channels
_BROWN = 0.9  # blue over green absorption of brown and red chromogens
_BLUEST = 2.0  # green over red absorption of a counterstain
_HUE = (0.02, 0.12)  # between channels, and as a share of the strongest: has a colour
_LEAST_HUE = 0.2  # of a piece
_DIRT, _MOST_DIRT = 0.2, 0.1  # in faint tissue: denser and colourless; share of a piece


@dataclass(frozen=True)
class _Limits:
    """What differs between presets, besides colour.

    :ivar smooth: spread within 3 x 3 pixels; glass stays below, JPEG noise included.
    :ivar texture: bounds of Otsu's threshold on the spread of optical density.
    :ivar share: of the usual density of textured areas above glass: clearer spots between them are glass too.
    :ivar density: bounds of that.
    :ivar densest: beyond it even areas of the stain's own colour are ink.
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
    """What a thumbnail shows.

    :ivar tissue: bool (H, W), without pen marks and scanner borders.
    :ivar pen: bool (H, W), pen marks and black borders, with a margin for their faded edges.
    :ivar ink: bool (H, W), the pen marks alone, with that margin; under ``he`` also what its colour alone keeps out.
    :ivar preset: what was looked for, also where it was chosen.
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
    """Tell tissue from glass and from what else lies on it.

    :param rgb: uint8 (H, W, 3), a whole slide reduced to about 8 um per pixel.
    :param mpp: um per pixel of ``rgb``.
    :param preset: the kind of stain; ``auto`` chooses by the colours of what is textured.
    :param min_area: pieces below this area are dropped, um^2.
    :param max_hole: holes up to this area are filled, um^2.
    :param ink: whether pen marks are looked for; black borders and the preset's colours of tissue are so in any case.
    :param finer: the slide's finer pixels, by which packed tissue is told from ink; without them it may be taken for ink.
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
    """What is textured, stained and of a colour that tissue has; not the ``other``, except where it is dense."""
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
    """Pieces in focus; for immunohistochemistry those of some colour, and where all is faint those without dark dirt."""

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
    """The preset for what is textured and no ink: H&E if some of it is pink, else by its strength."""
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
    """Pixels of a hue that the stain has: purple to pink in H&E, brown and blue-grey too in immunohistochemistry."""
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
    """``local`` at the pixels of ``mask``, float32 (n,); it depends on what lies within a few pixels."""
    found = [np.zeros(0, np.float32)]
    for top in range(0, len(above), rows):
        begin, bottom = max(0, top - _HALO), min(len(above), top + rows)
        found.append(local(above[begin : bottom + _HALO])[top - begin : bottom - begin][mask[top:bottom]])
    return np.concatenate(found)


def _smooth(density: Density, mpp: float, limit: float) -> Mask:
    """Areas without texture; the lines along which two of them meet count as smooth too."""
    even = in_strips(lambda part: box_spread(_green(part)) < limit, density, _HALO)
    return morphology.close(morphology.opened(even, _SMOOTH_WIDTH / mpp), _SMOOTH_WIDTH / mpp)


def _glass(plain: Density, smooth: Mask) -> Image:
    """The usual density of smooth areas, of clear ones if there are any; 0 where tissue leaves no glass to be seen."""
    clear = smooth & in_strips(lambda part: part[..., GREEN] < _GLASS_DENSITY, plain, 0)
    if clear.mean() < _LEAST_GLASS:
        clear = smooth & in_strips(lambda part: part[..., GREEN] < marks.BLACK, plain, 0)
    glass = plain.median(clear)
    return np.zeros(3, np.float32) if glass is None else glass


def _least_density(textured: Image, limits: _Limits) -> float:
    """How dense stained tissue is at least, in proportion to how strongly this slide is stained."""
    usual = float(np.median(textured, overwrite_input=True)) if textured.size else 0.0
    return float(np.clip(limits.share * usual, *limits.density))


def _roughness(part: Image, mpp: float) -> Image:
    return spread(_green(part), max(1.0, _TEXTURE_SCALE / mpp))


def _texture(above: Density, mpp: float) -> NDArray[np.uint8]:
    """The logarithm of the spread around each pixel, in 256 steps, uint8 (H, W)."""
    low, high = _ROUGHEST

    def levels(part: Image) -> NDArray[np.uint8]:
        share = np.log(np.maximum(_roughness(part, mpp), low) / low) / np.log(high / low)
        return np.asarray(np.clip(share * 255, 0, 255).astype(np.uint8))

    return in_strips(levels, above, 5 * max(1.0, _TEXTURE_SCALE / mpp), kind=np.uint8)


def _textured(above: Density, mpp: float, levels: NDArray[np.uint8], bounds: tuple[float, float]) -> Mask:
    """Where the spread is beyond Otsu's threshold on its logarithm, within bounds: an image of tissue alone, or of none, has
    no two modes."""
    low, high = _ROUGHEST
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    least = float(np.clip(low * (high / low) ** (otsu / 255), *bounds))
    return in_strips(lambda part: _roughness(part, mpp) > least, above, 5 * max(1.0, _TEXTURE_SCALE / mpp))
