"""Overlays for visual checks, with outlined tissue and marked patches, and tissue outlines for QuPath.

Outlines are GeoJSON (RFC 7946 geometry) in level-0 pixels relative to QuPath's origin, one Feature per piece of tissue, as QuPath
reads and writes them:
https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sgcl_cli.slide import colours, jpeg
from sgcl_cli.slide.lattice import Lattice, Sides

_TINT, _CLASS_TINT = 0.12, 0.28
_SIDE = 2000  # pixels of the longer side up to which small pictures are enlarged
_FRAMES = (5.0, 14.0)  # sides of a patch in pixels between which the opacity of frames grows from 0 to 1
_HATCH = 10  # pixels, period of the stripes
_FINER = 2  # the mask is enlarged by this factor, so outlines are within 1 / (2 _FINER) mask pixels of its edges


def draw(
    base: NDArray[np.uint8],
    size: tuple[int, int],
    mask: NDArray[np.bool_],
    lattice: Lattice,
    sides: Sides,
    *,
    label: NDArray[np.int16] | None = None,
    ink: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """The slide with patches tinted and framed, tissue outlined and ink hatched.

    Frames are one pixel wide and fade as patches get smaller, so that tissue and its outline stay visible.

    :param base: uint8 (H, W, 3), the whole slide; a small one is enlarged by a whole factor k.
    :param size: (width, height) of level 0, pixels.
    :param mask: tissue, bool, at any size, over the whole slide.
    :param sides: (width, height) of a patch, level-0 pixels.
    :param label: class of each patch; patches of class -1 (unknown) are framed but not tinted.
    :param ink: pen marks, bool, at any size, over the whole slide.
    :returns: uint8 (k H, k W, 3).
    """
    enlarged = _enlarged(base)
    height, width = enlarged.shape[:2]
    scale = np.divide(size, (width, height))
    picture = _with_patches(enlarged, lattice.coords / scale, np.divide(sides, scale), label)
    if ink is not None and ink.any():
        _hatch(picture, _fitted(ink, (width, height)))
    contours, _ = cv2.findContours(_fitted(mask, (width, height)), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colours.TISSUE, max(1, round(max(height, width) / 1000)), cv2.LINE_AA)
    return picture


def _enlarged(base: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = _SIDE // max(base.shape[:2])
    if factor < 2:
        return base
    size = base.shape[1] * factor, base.shape[0] * factor
    return np.asarray(cv2.resize(base, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _with_patches(
    base: NDArray[np.uint8], corners: NDArray[np.float64], side: NDArray[np.float64], label: NDArray[np.int16] | None
) -> NDArray[np.uint8]:
    """The picture with tinted and framed patches; adjacent patches share a line.

    :param corners: (N, 2), x and y in pixels of ``base``.
    :param side: (2,), width and height in pixels of ``base``.
    """
    numbers: list[int | None] = [None] * len(corners) if label is None else label.tolist()
    starts = np.rint(corners).astype(int).tolist()
    ends = np.rint(corners + side).astype(int)
    tint = base.copy()
    for start, end, number in zip(starts, (ends - 1).tolist(), numbers, strict=True):
        if number is None or number >= 0:
            cv2.rectangle(tint, start, end, _colour(number), cv2.FILLED)
    strength = _TINT if label is None else _CLASS_TINT
    cv2.addWeighted(tint, strength, base, 1 - strength, 0, dst=tint)
    first, full = _FRAMES
    opacity = float(np.clip((side.min() - first) / (full - first), 0, 1))
    if opacity == 0:
        return tint
    framed = tint.copy()
    limits = np.array(base.shape[1::-1]) - 1
    for start, end, number in zip(starts, np.minimum(ends, limits).tolist(), numbers, strict=True):
        cv2.rectangle(framed, start, end, _colour(number), 1)
    cv2.addWeighted(framed, opacity, tint, 1 - opacity, 0, dst=framed)
    return framed


def _colour(number: int | None) -> colours.RGB:
    """The colour of a patch by its class: -1 is unknown, None means that the slide has no classes."""
    if number is None:
        return colours.PATCH
    return colours.UNKNOWN if number < 0 else colours.of_class(number)


def _hatch(picture: NDArray[np.uint8], ink: NDArray[np.uint8]) -> None:
    """Draw black and white stripes, visible on ink of any colour, and a thin black outline, in place."""
    height, width = ink.shape
    down, across = (np.arange(side) % _HATCH for side in (height, width))
    place = np.add.outer(down.astype(np.uint8), across.astype(np.uint8)) % _HATCH
    picture[(ink > 0) & (place < 2)] = 0
    picture[(ink > 0) & (place == 2)] = 255
    contours, _ = cv2.findContours(ink, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (0, 0, 0), 1)


def _fitted(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask resized by linear interpolation and thresholded at one half, uint8 0 or 1."""
    smooth = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
    return (np.asarray(smooth) > 127).astype(np.uint8)


def reduced(picture: bytes, side: int, quality: int = 75) -> bytes:
    """A copy of a JPEG file reduced to at most ``side`` pixels along each axis, as a JPEG file; decoded at reduced scale."""
    pixels = simplejpeg.decode_jpeg(picture, colorspace="RGB", min_width=side, min_height=side)
    shrink = min(1.0, side / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink))
    return jpeg.encode(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8), quality)


def outlines(
    mask: NDArray[np.bool_], scale: tuple[float, float], corner: tuple[float, float] = (0, 0)
) -> dict[str, Any]:
    """The pieces of tissue as a GeoJSON FeatureCollection of Polygons with holes, level-0 pixels.

    :param scale: (x, y) level-0 pixels per mask pixel.
    :param corner: (x, y) of QuPath's origin, level-0 pixels: the corner of the scanned part of the slide.
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
                "classification": {"name": "Tissue", "color": list(colours.TISSUE)},
            },
        }
        for number, contour in pieces
    ]
    return {"type": "FeatureCollection", "features": features}


def _ring(contour: NDArray[np.int32], scale: tuple[float, float], corner: tuple[float, float]) -> list[list[float]]:
    """A closed ring in level-0 pixels from a contour of the enlarged mask."""
    points = (contour[:, 0, :] + 0.5) / _FINER * scale - corner
    closed = np.concatenate([points, points[:1]])
    return [[round(float(x), 1), round(float(y), 1)] for x, y in closed]
