"""Pictures of attention: over a slide's thumbnail, and the patches that got most and least of it. Pure functions of arrays.

Attention is shown as a multiple of the mean, log2(N a_i), from 1/8 to 8: a model that looks everywhere alike gives an even
picture, which ranks would not.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

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


def relative(attention: NDArray[np.floating]) -> Floats:
    """log2 of a patch's attention over the mean, (N,), within plus and minus ``OCTAVES``."""
    scaled = attention.astype(np.float64) * len(attention) / max(float(attention.sum()), 1e-30)
    return np.clip(np.log2(np.maximum(scaled, 1e-30)), -OCTAVES, OCTAVES)


def colours(octaves: Floats) -> Floats:
    """RGB (..., 3) in 0..255 of log2 multiples: blue below the mean, pale at it, red above."""
    place = octaves / OCTAVES
    return np.stack([np.interp(place, _STOPS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)


def overlay(
    thumbnail: Pixels,
    coords: NDArray[np.int64],
    sides: Floats,
    attention: NDArray[np.floating],
    scale: tuple[float, float],
) -> Pixels:
    """The thumbnail with each patch tinted by its attention, and the scale of colours below; small ones are enlarged.

    :param coords: (N, 2) corners of patches, and ``sides`` (2,) their width and height, level-0 pixels.
    :param scale: (x, y) level-0 pixels per thumbnail pixel. Where patches overlap the mean of their log2 multiples shows.
    :returns: uint8 (k H + legend, k W, 3), k a whole number.
    """
    enlargement = max(1, -(-_LEAST_SIDE // max(thumbnail.shape[:2])))
    base = thumbnail.repeat(enlargement, axis=0).repeat(enlargement, axis=1)
    step = np.divide(scale, enlargement)
    height, width = base.shape[:2]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    starts = np.rint(coords / step).astype(int)
    ends = np.maximum(np.rint((coords + sides) / step).astype(int), starts + 1)
    for (left, top), (right, bottom), value in zip(
        np.maximum(starts, 0).tolist(), ends.tolist(), relative(attention).tolist(), strict=True
    ):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    seen = count > 0
    tinted = base.astype(np.float64)
    tinted[seen] = (1 - _TINT) * tinted[seen] + _TINT * colours(total[seen] / count[seen])
    return np.concatenate([np.rint(tinted).astype(np.uint8), legend(width)])


def legend(width: int) -> Pixels:
    """The scale of colours with its meaning, uint8 (h, width, 3), larger where the picture is wide."""
    zoom = max(1.0, width / 720)
    strip = np.full((round(54 * zoom), width, 3), 255, np.uint8)
    left, right = round(12 * zoom), max(round(12 * zoom) + 1, min(width - 12, round(300 * zoom)))
    strip[round(10 * zoom) : round(24 * zoom), left:right] = colours(np.linspace(-OCTAVES, OCTAVES, right - left))
    for text, place in (
        ("1/8", left),
        ("mean", (left + right) // 2 - round(20 * zoom)),
        ("x 8", right - round(28 * zoom)),
    ):
        _write(strip, text, (place, round(44 * zoom)), 0.48 * zoom, _INK)
    _write(
        strip,
        "multiple of the slide's mean attention",
        (right + round(16 * zoom), round(24 * zoom)),
        0.48 * zoom,
        _MUTED,
    )
    return strip


def _write(picture: Pixels, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, _FONT, size, colour, max(1, round(size * 1.6)), cv2.LINE_AA)


def montage(rows: Sequence[tuple[str, Sequence[tuple[Pixels, float]]]], side: int = 128) -> Pixels:
    """Rows of patches under their names; below each patch its attention as a multiple of its slide's mean.

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
