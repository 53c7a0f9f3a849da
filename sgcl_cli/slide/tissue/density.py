"""Optical density of a thumbnail and how much it varies from place to place.

Optical density is -ln(I / 255) (Beer-Lambert law, natural logarithm). Images are float32 (H, W), one channel.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

RED, GREEN, BLUE = 0, 1, 2


def optical_density(rgb: NDArray[np.uint8]) -> Image:
    """-ln((I + 1) / 256) of each channel; float32 (H, W, 3), 0 for white."""
    table = -np.log((np.arange(256) + 1) / 256)
    return np.abs(table.astype(np.float32)[rgb])


def strongest(density: Image) -> Image:
    """The largest of the three channels, (H, W); much faster than a reduction over the last axis."""
    return np.maximum(np.maximum(density[..., RED], density[..., GREEN]), density[..., BLUE])


def weakest(density: Image) -> Image:
    """The smallest of the three channels, (H, W)."""
    return np.minimum(np.minimum(density[..., RED], density[..., GREEN]), density[..., BLUE])


def colour(density: Image) -> Image:
    """How far the channels are apart, (H, W); 0 for grey."""
    return np.asarray(strongest(density) - weakest(density))


def spread(density: Image, sigma: float) -> Image:
    """Standard deviation under a Gaussian window of ``sigma`` pixels."""
    mean = cv2.GaussianBlur(density, (0, 0), sigma)
    square = cv2.GaussianBlur(density * density, (0, 0), sigma)
    return _root(square - mean * mean)


def box_spread(density: Image, side: int = 3) -> Image:
    """Standard deviation within ``side`` x ``side`` pixels."""
    mean = cv2.blur(density, (side, side))
    return _root(cv2.blur(density * density, (side, side)) - mean * mean)


def coherence(density: Image, sigma: float) -> Image:
    """How far gradients within ``sigma`` pixels share one direction: 0 for none, 1 for a straight edge.

    (l1 - l2) / (l1 + l2) of the structure tensor's eigenvalues (Bigun and Granlund 1987, "Optimal orientation detection of
    linear symmetry").
    """
    across, down = (cv2.Sobel(density, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(a * b, (0, 0), sigma) for a, b in ((across, across), (down, down), (across, down)))
    energy = xx + yy
    difference = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    shared: Image = difference / np.maximum(energy, 1e-9)
    return shared


def in_strips(
    local: Callable[[Image], NDArray[np.bool_]], image: Image, halo: float, rows: int = 512
) -> NDArray[np.bool_]:
    """``local(image)``, strip by strip, so that its working memory stays small.

    :param local: makes a mask, bool (H, W), of which every pixel depends on what lies within ``halo`` pixels of it.
    """
    halo, mask = int(np.ceil(halo)), np.empty(image.shape[:2], np.bool_)
    for top in range(0, len(image), rows):
        begin = max(0, top - halo)
        bottom = min(len(image), top + rows)
        mask[top:bottom] = local(image[begin : bottom + halo])[top - begin : bottom - begin]
    return mask


def _root(variance: Image) -> Image:
    root: Image = np.sqrt(np.maximum(variance, 0))
    return root
