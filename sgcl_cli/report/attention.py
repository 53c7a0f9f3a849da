"""Heatmaps over a slide's thumbnail, and montages of the patches with most and least attention. Pure functions of arrays.

Attention is shown as a multiple of the mean, log2(N a_i), from 1/8 to 8: uniform attention gives an even
picture, which ranks would not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.report.colour_scale import ColourScale

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

OCTAVES = 3.0  # shown above and below the mean
_LEAST_SIDE = 1000  # pixels of an overlay's longer side
_TINT = 0.62
_STOPS = np.array([-1.0, -0.45, 0.0, 0.45, 1.0])
_COLOURS = np.array([[33, 82, 163], [126, 173, 214], [244, 241, 234], [244, 151, 99], [178, 24, 43]], dtype=np.float64)
_INK, _MUTED = (31, 41, 51), (102, 114, 127)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 6
_CAPTIONS = 58  # pixels above and below a row of patches


ATTENTION = ColourScale(-OCTAVES, 0.0, OCTAVES, ("1/8", "mean", "x 8"), "multiple of the slide's mean attention")


def relative(attention: NDArray[np.floating]) -> Floats:
    """log2 of a patch's attention over the mean, (N,), within plus and minus ``OCTAVES``."""
    scaled = attention.astype(np.float64) * len(attention) / max(float(attention.sum()), 1e-30)
    return np.clip(np.log2(np.maximum(scaled, 1e-30)), -OCTAVES, OCTAVES)


def colours(values: Floats, scale: ColourScale = ATTENTION) -> Floats:
    """RGB (..., 3) in 0..255 of values on a scale; beyond its ends the colour is that of the end."""
    place = np.interp(values, [scale.low, scale.middle, scale.high], [-1.0, 0.0, 1.0])
    return np.stack([np.interp(place, _STOPS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)


@dataclass(frozen=True)
class PlacedPatches:
    """Patches on the thumbnail of their slide.

    :ivar thumbnail: uint8 (H, W, 3).
    :ivar coords: (N, 2), top-left corners of patches, level-0 pixels.
    :ivar sides: (2,), width and height of a patch, level-0 pixels.
    :ivar scale: (x, y), level-0 pixels per thumbnail pixel.
    """

    thumbnail: Pixels
    coords: NDArray[np.int64]
    sides: Floats
    scale: tuple[float, float]


def overlay(placed: PlacedPatches, values: Floats, scale: ColourScale = ATTENTION) -> Pixels:
    """The thumbnail with each patch tinted by its value, above the colour bar; small thumbnails are enlarged.

    :param values: (N,), finite; overlapping patches show their mean.
    :returns: uint8 (k H + legend, k W, 3), k a whole number.
    """
    base, mean, seen = _means(placed, values[:, None])
    return np.concatenate([_tinted(base, colours(mean[:, 0], scale), seen), legend(base.shape[1], scale)])


def painted(placed: PlacedPatches, rgb: NDArray[np.uint8]) -> Pixels:
    """The thumbnail with each patch tinted in its colour, uint8 (N, 3); small thumbnails are enlarged.

    :returns: uint8 (k H, k W, 3), k a whole number.
    """
    return _tinted(*_means(placed, rgb.astype(np.float64)))


def _means(placed: PlacedPatches, values: Floats) -> tuple[Pixels, Floats, NDArray[np.bool_]]:
    """The enlarged thumbnail, where patches lie on it, bool (k H, k W), and there the mean of their values (N, C)."""
    enlargement = max(1, -(-_LEAST_SIDE // max(placed.thumbnail.shape[:2])))
    base = placed.thumbnail.repeat(enlargement, axis=0).repeat(enlargement, axis=1)
    step = np.divide(placed.scale, enlargement)
    total, count = np.zeros((*base.shape[:2], values.shape[1])), np.zeros(base.shape[:2])
    starts = np.rint(placed.coords / step).astype(int)
    ends = np.maximum(np.rint((placed.coords + placed.sides) / step).astype(int), starts + 1)
    for (left, top), (right, bottom), value in zip(
        np.maximum(starts, 0).tolist(), np.maximum(ends, 0).tolist(), values, strict=True
    ):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    seen = count > 0
    return base, total[seen] / count[seen][:, None], seen


def _tinted(base: Pixels, rgb: Floats, seen: NDArray[np.bool_]) -> Pixels:
    tinted = base.astype(np.float64)
    tinted[seen] = (1 - _TINT) * tinted[seen] + _TINT * rgb
    pixels: Pixels = np.rint(tinted).astype(np.uint8)
    return pixels


def legend(width: int, scale: ColourScale = ATTENTION) -> Pixels:
    """A colour bar with its numbers and its name, uint8 (h, width, 3), larger where the picture is wide."""
    zoom = max(1.0, width / 480)
    strip = np.full((round(78 * zoom), width, 3), 255, np.uint8)
    left, right = round(12 * zoom), max(round(12 * zoom) + 1, min(width - 12, round(300 * zoom)))
    ramp = np.interp(np.linspace(-1, 1, right - left), [-1, 0, 1], [scale.low, scale.middle, scale.high])
    strip[round(10 * zoom) : round(24 * zoom), left:right] = colours(ramp, scale)
    low, middle, high = scale.labels
    for text, place in (
        (low, left),
        (middle, (left + right) // 2 - _width(middle, 0.48 * zoom) // 2),
        (high, right - _width(high, 0.48 * zoom)),
    ):
        _write(strip, text, (place, round(44 * zoom)), 0.48 * zoom, _INK)
    _write(strip, scale.meaning, (left, round(66 * zoom)), 0.48 * zoom, _MUTED)
    return strip


def _width(text: str, size: float) -> int:
    """Width of a string, pixels."""
    return int(cv2.getTextSize(text, _FONT, size, max(1, round(size * 1.6)))[0][0])


def _write(picture: Pixels, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, _FONT, size, colour, max(1, round(size * 1.6)), cv2.LINE_AA)


def montage(rows: Sequence[tuple[str, Sequence[tuple[Pixels, float]]]], side: int = 128) -> Pixels:
    """Rows of patches under their names; below each patch its attention as a multiple of the mean of its slide.

    :param rows: (name, [(patch uint8 (H, W, 3), multiple)]).
    """
    columns = max(len(patches) for _, patches in rows)
    width = columns * (side + _GAP) + _GAP
    sheet = np.full((len(rows) * (side + _CAPTIONS), width, 3), 255, np.uint8)
    for number, (name, patches) in enumerate(rows):
        top = number * (side + _CAPTIONS) + 28
        _write(sheet, name, (_GAP, top - 9), 0.62, _INK)
        for column, (patch, multiple) in enumerate(patches):
            left = _GAP + column * (side + _GAP)
            small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
            sheet[top : top + side, left : left + side] = small
            _write(sheet, f"x {multiple:.2g}", (left, top + side + 18), 0.55, _MUTED)
    return sheet
