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
    """The scale of colours with its meaning, uint8 (54, width, 3)."""
    strip = np.full((54, width, 3), 255, np.uint8)
    left, right = 10, max(11, min(width - 10, 410))
    strip[10:24, left:right] = colours(np.linspace(-OCTAVES, OCTAVES, right - left))
    for text, place in (("1/8", left), ("mean", (left + right) // 2 - 18), ("x 8", right - 28)):
        cv2.putText(strip, text, (place, 44), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    if width > 700:
        words = "attention as a multiple of the slide's mean"
        cv2.putText(strip, words, (right + 20, 24), _FONT, 0.5, _MUTED, 1, cv2.LINE_AA)
    return strip


def montage(rows: Sequence[tuple[str, Sequence[tuple[Pixels, float]]]], side: int = 128) -> Pixels:
    """Rows of patches under their names; below each patch its attention as a multiple of its slide's mean.

    :param rows: (name, [(patch uint8 (H, W, 3), multiple)]).
    """
    columns = max(len(patches) for _, patches in rows)
    width = columns * (side + _GAP) + _GAP
    sheet = np.full((len(rows) * (side + 56), width, 3), 255, np.uint8)
    for number, (name, patches) in enumerate(rows):
        top = number * (side + 56) + 28
        cv2.putText(sheet, name, (_GAP, top - 9), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
        for column, (patch, multiple) in enumerate(patches):
            left = _GAP + column * (side + _GAP)
            small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
            sheet[top : top + side, left : left + side] = small
            cv2.putText(sheet, f"x {multiple:.2g}", (left, top + side + 16), _FONT, 0.42, _MUTED, 1, cv2.LINE_AA)
    return sheet
