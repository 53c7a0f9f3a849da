"""Morphology of masks by discs, connected pieces and holes. Masks are bool (H, W), lengths in pixels."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def close(mask: Mask, diameter: float) -> Mask:
    """Closing by a disc."""
    return _morph(mask, cv2.MORPH_CLOSE, diameter)


def opened(mask: Mask, diameter: float) -> Mask:
    """Opening by a disc."""
    return _morph(mask, cv2.MORPH_OPEN, diameter)


def dilate(mask: Mask, radius: float) -> Mask:
    """Dilation by a disc of ``radius``."""
    return _morph(mask, cv2.MORPH_DILATE, 2 * radius)


def pieces(mask: Mask, area: float) -> Mask:
    """The 8-connected pieces of at least ``area`` pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = statistics[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return _of(labels, keep)


def pieces_holding(mask: Mask, marked: Mask, share: float) -> Mask:
    """The 8-connected pieces with at least one ``marked`` pixel and a share of them of at least ``share``."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    held = np.zeros(count, np.int64)
    for rows in _strips(labels):
        held += np.bincount(labels[rows][marked[rows]], minlength=count)
    keep = (held >= share * statistics[:, cv2.CC_STAT_AREA]) & (held > 0)
    keep[0] = False
    return _of(labels, keep)


def fill_holes(mask: Mask, area: float) -> Mask:
    """The mask with holes of at most ``area`` pixels filled; background that touches the image's edge is not a hole."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    hole = statistics[:, cv2.CC_STAT_AREA] <= area
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    hole[border] = False
    hole[0] = False
    return mask | _of(labels, hole) if count > 1 else mask


def _of(labels: NDArray[np.int32], kept: Mask) -> Mask:
    """Whether the piece of each pixel is kept; computed by strips, since numpy converts indices to 64 bits."""
    found = np.empty(labels.shape, np.bool_)
    for rows in _strips(labels):
        found[rows] = kept[labels[rows]]
    return found


def _strips(image: NDArray[np.int32], rows: int = 128) -> Iterator[slice]:
    return (slice(top, top + rows) for top in range(0, len(image), rows))


def _morph(mask: Mask, operation: int, diameter: float) -> Mask:
    """A morphological operation by a disc of about ``diameter`` pixels; pixels at the image's edge are replicated beyond it."""
    side = max(1, round(diameter)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), side, side, side, side, cv2.BORDER_REPLICATE)
    moved = cv2.morphologyEx(padded, operation, disc)
    return np.asarray(moved[side:-side, side:-side] > 0)
