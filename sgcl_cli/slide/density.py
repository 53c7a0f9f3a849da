"""Optical density of a thumbnail and how much it varies from place to place.

Optical density is -ln(I / 255) (Beer-Lambert law, natural logarithm). Images are float32 (H, W), one channel.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

RED, GREEN, BLUE = 0, 1, 2


def optical_density(rgb: NDArray[np.uint8]) -> Image:
    """-ln((I + 1) / 256) of each channel; float32 (H, W, 3), 0 for white."""
    table = -np.log((np.arange(256) + 1) / 256)
    return np.abs(table.astype(np.float32)[rgb])


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


def _root(variance: Image) -> Image:
    root: Image = np.sqrt(np.maximum(variance, 0))
    return root
