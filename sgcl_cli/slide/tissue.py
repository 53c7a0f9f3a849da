"""Where a thumbnail shows tissue. Pure functions of arrays.

Glass, smears of stain, scanner borders and filled-in gaps are smooth, whatever their colour; tissue is textured even where
the stain is faint, or dense. So the decision rests on the local spread of the optical density of green light, which every
histological stain absorbs, rather than on a colour that a laboratory, a scanner or an antibody may change.

Optical density is -ln(I / 255) (Beer-Lambert law, natural logarithm). Arrays are (row, column); lengths in um.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_Image = NDArray[np.float32]

_RED, _GREEN = 0, 1

_TEXTURE_SCALE = 16.0  # um
_TEXTURE_BOUNDS = (0.012, 0.03)  # of Otsu's threshold on the spread of optical density
_SMOOTH_SPREAD = 0.0065  # within 3 x 3 pixels; glass stays below, JPEG noise included
_SMOOTH_WIDTH = 40.0  # um; narrower smooth spots belong to the tissue around them
_GLASS_DENSITY = 0.4  # glass is usually clearer than this
_LEAST_GLASS = 0.01  # of the image; where less is as clear, a darker background is glass
_LEAST_SHARE = 0.15  # of the usual density of textured areas above glass: clearer spots between them are glass too
_LEAST_BOUNDS = (0.03, 0.12)
_DENSE = 0.35  # above glass: no smear is as dense
_COLOURED = 0.15  # between the densities of two channels: no scanner's background is as coloured
_FINE_SPREAD = 0.02  # within 3 x 3 pixels; dust out of focus stays below
_IN_FOCUS = 0.25  # least share of a piece
_CLOSING = 24.0  # um
_OPENING = 24.0  # um

_PEN_EXCESS, _PEN_RATIO = 0.25, 1.25  # of red over green absorption: no stain of tissue has it
_BLACK = 1.5  # density in every channel
_BLACK_AREA = 50_000.0  # um^2; smaller black spots are pigment or chromogen
_PEN_MARGIN = 32.0  # um


def tissue_mask(rgb: NDArray[np.uint8], mpp: float, *, min_area: float = 20_000.0, max_hole: float = 6_000.0) -> Mask:
    """Tissue, without pen marks and scanner borders.

    :param rgb: uint8 (H, W, 3), a whole slide reduced to about 8 um per pixel.
    :param mpp: um per pixel of ``rgb``.
    :param min_area: pieces below this area are dropped, um^2.
    :param max_hole: holes up to this area are filled, um^2.
    :returns: bool (H, W).
    """
    density = optical_density(rgb)
    foreign = pen_mask(rgb, mpp)
    green = density[..., _GREEN]
    smooth = _smooth(green, mpp)
    glass = _glass_density(green, smooth)
    above_glass = cv2.GaussianBlur(green, (0, 0), 1.0) - glass
    spread = _spread(green, max(1.0, _TEXTURE_SCALE / mpp))
    textured = (spread > _texture_threshold(spread)) & ~smooth
    stained = above_glass > _least_density(above_glass[textured & ~foreign])
    dense = (above_glass > _DENSE) & (np.ptp(density, axis=2) > _COLOURED)
    raw = ((textured & stained) | dense) & ~foreign
    closed = _morph(raw, cv2.MORPH_CLOSE, _CLOSING / mpp)
    filled = _fill_holes(closed, max_hole / mpp**2) & ~foreign
    opened = _morph(filled, cv2.MORPH_OPEN, _OPENING / mpp)
    in_focus = (_fine_spread(green) > _FINE_SPREAD) | dense
    return _pieces(opened, min_area / mpp**2, in_focus)


def pen_mask(rgb: NDArray[np.uint8], mpp: float) -> Mask:
    """Blue, green and black marker, and black borders, with a margin for their faded edges; bool (H, W)."""
    density = optical_density(cv2.GaussianBlur(rgb, (0, 0), 1.0))
    red, green = density[..., _RED], density[..., _GREEN]
    coloured = (red - green > _PEN_EXCESS) & (red > _PEN_RATIO * green)
    black = _pieces(density.min(axis=2) > _BLACK, _BLACK_AREA / mpp**2)
    return _morph(coloured | black, cv2.MORPH_DILATE, 2 * _PEN_MARGIN / mpp)


def smooth_mask(rgb: NDArray[np.uint8]) -> Mask:
    """Pixels without structure within 3 x 3 of them: glass, smears, and tissue far out of focus; bool (H, W)."""
    return np.asarray(_fine_spread(optical_density(rgb)[..., _GREEN]) <= _FINE_SPREAD)


def optical_density(rgb: NDArray[np.uint8]) -> _Image:
    """-ln((I + 1) / 256) of each channel; float32 (H, W, 3), 0 for white."""
    table = -np.log((np.arange(256) + 1) / 256)
    return np.abs(table.astype(np.float32)[rgb])


def _spread(density: _Image, sigma: float) -> _Image:
    """Standard deviation under a Gaussian window."""
    mean = cv2.GaussianBlur(density, (0, 0), sigma)
    square = cv2.GaussianBlur(density * density, (0, 0), sigma)
    return _root(square - mean * mean)


def _fine_spread(density: _Image) -> _Image:
    """Standard deviation within 3 x 3 pixels."""
    mean = cv2.blur(density, (3, 3))
    return _root(cv2.blur(density * density, (3, 3)) - mean * mean)


def _root(variance: _Image) -> _Image:
    root: _Image = np.sqrt(np.maximum(variance, 0))
    return root


def _smooth(density: _Image, mpp: float) -> Mask:
    """Areas without texture; the lines along which two of them meet count as smooth too."""
    areas = _morph(_fine_spread(density) < _SMOOTH_SPREAD, cv2.MORPH_OPEN, _SMOOTH_WIDTH / mpp)
    return _morph(areas, cv2.MORPH_CLOSE, _SMOOTH_WIDTH / mpp)


def _glass_density(density: _Image, smooth: Mask) -> float:
    """The usual density of smooth areas, of clear ones if there are any; 0 where tissue leaves no glass to be seen."""
    clear = smooth & (density < _GLASS_DENSITY)
    glass = density[clear if clear.mean() >= _LEAST_GLASS else smooth & (density < _BLACK)]
    return float(np.median(glass)) if glass.size else 0.0


def _least_density(textured: _Image) -> float:
    """How dense stained tissue is at least, in proportion to how strongly this slide is stained."""
    usual = float(np.median(textured)) if textured.size else 0.0
    return float(np.clip(_LEAST_SHARE * usual, *_LEAST_BOUNDS))


def _texture_threshold(spread: _Image) -> float:
    """Otsu's threshold on the logarithm of the spread, within bounds: an image of tissue alone, or of none, has no two modes."""
    low, high = 1e-3, 0.5
    levels = np.clip(np.log(np.maximum(spread, low) / low) / np.log(high / low) * 255, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(np.clip(low * (high / low) ** (otsu / 255), *_TEXTURE_BOUNDS))


def _morph(mask: Mask, operation: int, diameter: float) -> Mask:
    """Morphology with a disc of about ``diameter`` pixels; beyond the image's edge the image goes on."""
    side = max(1, round(diameter)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), side, side, side, side, cv2.BORDER_REPLICATE)
    moved = cv2.morphologyEx(padded, operation, disc)
    return np.asarray(moved[side:-side, side:-side] > 0)


def _pieces(mask: Mask, area: float, in_focus: Mask | None = None) -> Mask:
    """Only the 8-connected pieces of at least ``area`` pixels, and of those, where told, the ones enough in focus."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = statistics[:, cv2.CC_STAT_AREA] >= area
    if in_focus is not None:
        sharp = np.bincount(labels[in_focus], minlength=count)
        keep &= sharp >= _IN_FOCUS * statistics[:, cv2.CC_STAT_AREA]
    keep[0] = False
    return np.asarray(keep[labels])


def _fill_holes(mask: Mask, area: float) -> Mask:
    """Holes of at most ``area`` pixels filled; what touches the image's edge is no hole."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    hole = statistics[:, cv2.CC_STAT_AREA] <= area
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    hole[border] = False
    hole[0] = False
    return mask | hole[labels] if count > 1 else mask
