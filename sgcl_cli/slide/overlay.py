"""What a person checks: the thumbnail with tissue outlined and patches marked, and the outlines for QuPath.

Outlines are GeoJSON (RFC 7946 geometry) in level-0 pixels, from the corner that QuPath counts from, one Feature per piece of
tissue, as QuPath reads and writes them:
https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sgcl_cli.slide import jpeg
from sgcl_cli.slide.lattice import Lattice, Sides

_OUTLINE = (0, 140, 60)
_PATCH = (30, 60, 200)
_CLASSES = (
    (200, 30, 50),
    (230, 140, 0),
    (120, 40, 170),
    (0, 150, 190),
    (150, 90, 40),
    (220, 70, 160),
    (90, 120, 0),
    (70, 70, 90),
)
_TINT = 0.12
_CLASS_TINT = 0.3
_LEAST_SIDE = 1200  # pixels of the longer side
_FINER = 2  # outlines follow the edges of mask pixels to within a half of 1 / _FINER
_TISSUE_COLOUR = [0, 140, 60]


def draw(
    thumbnail: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    lattice: Lattice,
    sides: Sides,
    scale: tuple[float, float],
    label: NDArray[np.int16] | None = None,
) -> NDArray[np.uint8]:
    """The thumbnail with kept patches tinted and framed and tissue outlined; small ones are enlarged for the eye.

    :param sides: (width, height) of a patch, level-0 pixels.
    :param scale: (x, y) level-0 pixels per thumbnail pixel.
    :param label: class of each patch, -1 unknown; each class has its colour, patches of none are only framed.
    :returns: uint8 (k H, k W, 3), k a whole number.
    """
    enlargement = max(1, _LEAST_SIDE // max(mask.shape))
    base = thumbnail.repeat(enlargement, axis=0).repeat(enlargement, axis=1)
    step = np.divide(scale, enlargement)
    corners = np.rint(lattice.coords / step).astype(int).tolist()
    ends = (np.rint((lattice.coords + sides) / step).astype(int) - 1).tolist()
    numbers: list[int] = [-1] * len(lattice) if label is None else label.tolist()
    colours = [_PATCH if number < 0 else class_colour(number) for number in numbers]
    tint, picture = base.copy(), base.copy()
    for corner, end, colour, number in zip(corners, ends, colours, numbers, strict=True):
        if label is None or number >= 0:
            cv2.rectangle(tint, corner, end, colour, cv2.FILLED)
    strength = _TINT if label is None else _CLASS_TINT
    cv2.addWeighted(tint, strength, base, 1 - strength, 0, dst=picture)
    for corner, end, colour in zip(corners, ends, colours, strict=True):
        cv2.rectangle(picture, corner, end, colour, 1)
    large = mask.astype(np.uint8).repeat(enlargement, axis=0).repeat(enlargement, axis=1)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, _OUTLINE, max(1, round(max(large.shape) / 1000)))
    return picture


def class_colour(number: int) -> tuple[int, int, int]:
    """RGB of a class; colours come again after the eighth."""
    return _CLASSES[number % len(_CLASSES)]


def reduced(picture: bytes, side: int, quality: int = 75) -> bytes:
    """A small copy of a JPEG file, of which neither side is above ``side`` pixels; decoded at reduced scale."""
    pixels = simplejpeg.decode_jpeg(picture, colorspace="RGB", min_width=side, min_height=side)
    shrink = min(1.0, side / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink))
    return jpeg.encode(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8), quality)


def outlines(
    mask: NDArray[np.bool_], scale: tuple[float, float], corner: tuple[float, float] = (0, 0)
) -> dict[str, Any]:
    """The pieces of tissue as a GeoJSON FeatureCollection of Polygons with holes, level-0 pixels.

    :param scale: (x, y) level-0 pixels per mask pixel.
    :param corner: (x, y) from which QuPath counts, level-0 pixels: that of the part of the slide that was scanned.
    """
    fine = mask.astype(np.uint8).repeat(_FINER, axis=0).repeat(_FINER, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes: dict[int, list[Any]] = {}
    pieces = []
    links = [] if hierarchy is None else hierarchy[0].tolist()
    for number, (contour, (_, _, _, parent)) in enumerate(zip(contours, links, strict=True)):
        if len(contour) < 3:
            continue
        if parent < 0:
            pieces.append((number, contour))
        else:
            holes.setdefault(parent, []).append(contour)
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_ring(ring, scale, corner) for ring in (contour, *holes.get(number, []))],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": "Tissue", "color": _TISSUE_COLOUR},
            },
        }
        for number, contour in pieces
    ]
    return {"type": "FeatureCollection", "features": features}


def _ring(contour: NDArray[np.int32], scale: tuple[float, float], corner: tuple[float, float]) -> list[list[float]]:
    """A closed ring in level-0 pixels from the centres of the pixels of the finer mask."""
    points = (contour[:, 0, :] + 0.5) / _FINER * scale - corner
    closed = np.concatenate([points, points[:1]])
    return [[round(float(x), 1), round(float(y), 1)] for x, y in closed]
