"""Optical density of a thumbnail and its local variation.

Optical density is -ln(I / 255) (Beer-Lambert law, natural logarithm). Images are float32 (H, W), one channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

RED, GREEN, BLUE = 0, 1, 2


_TABLE: Image = np.abs(-np.log((np.arange(256) + 1) / 256).astype(np.float32))


def optical_density(rgb: NDArray[np.uint8]) -> Image:
    """-ln((I + 1) / 256) of each channel; float32 (H, W, 3), 0 for white."""
    return Density(rgb)[:]


@dataclass(frozen=True)
class Density:
    """-ln((I + 1) / 256) of each channel of an image minus that of glass, computed by strips: in float32 it would take four times
    the memory of the image.

    :ivar rgb: uint8 (H, W, 3).
    :ivar glass: float32 (3,), density of glass; None for 0.
    :ivar clear: bool (H, W), pixels with density 0; None for none.
    """

    rgb: NDArray[np.uint8]
    glass: Image | None = None
    clear: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.rgb.shape

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, rows: slice) -> Image:
        """Densities of some rows, float32 (rows, W, 3)."""
        strip: Image = np.asarray(cv2.LUT(np.ascontiguousarray(self.rgb[rows]), self._tables), np.float32)
        if self.clear is not None:
            strip[self.clear[rows]] = 0
        return strip

    def above(self, glass: Image, clear: NDArray[np.bool_]) -> Self:
        """The density relative to ``glass``, float32 (3,), and 0 at the pixels of ``clear``, bool (H, W)."""
        return replace(self, glass=glass, clear=clear)

    def median(self, where: NDArray[np.bool_]) -> Image | None:
        """The median of each channel over the pixels of ``where``, float32 (3,), glass not subtracted; None if there are none."""
        count = int(np.count_nonzero(where))
        if count == 0:
            return None
        found = []
        for channel in (RED, GREEN, BLUE):
            grey = np.ascontiguousarray(self.rgb[..., channel])
            values = cv2.calcHist([grey], [0], where.astype(np.uint8), [256], [0, 256]).ravel()[::-1]
            reached = np.cumsum(values.astype(np.int64))
            middle = [255 - int(np.searchsorted(reached, rank, "right")) for rank in ((count - 1) // 2, count // 2)]
            found.append(np.mean(_TABLE[middle]))
        return np.array(found, np.float32)

    @cached_property
    def _tables(self) -> Image:
        """Density by grey level and channel, float32 (256, 1, 3)."""
        glass = np.zeros(3, np.float32) if self.glass is None else self.glass
        return np.ascontiguousarray((_TABLE[:, None] - glass[None])[:, None])


def strongest(density: Image) -> Image:
    """Maximum over the channels, (H, W); much faster than a reduction over the last axis."""
    return np.maximum(np.maximum(density[..., RED], density[..., GREEN]), density[..., BLUE])


def weakest(density: Image) -> Image:
    """Minimum over the channels, (H, W)."""
    return np.minimum(np.minimum(density[..., RED], density[..., GREEN]), density[..., BLUE])


def colour(density: Image) -> Image:
    """Range of the channels, (H, W); 0 for grey."""
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
    """Coherence of the gradients within ``sigma`` pixels, from 0 for no common direction to 1 for a straight edge.

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
    local: Callable[[Image], NDArray[Any]],
    image: Image | Density,
    halo: float,
    rows: int = 256,
    kind: type[np.generic] = np.bool_,
) -> NDArray[Any]:
    """``local(image)``, computed by strips to limit the working memory.

    :param local: computes an image (H, W) in which a pixel depends on pixels within a distance of ``halo`` only.
    :param halo: pixels.
    :param rows: of a strip.
    :param kind: dtype of the result.
    """
    halo, mask = int(np.ceil(halo)), np.empty(image.shape[:2], kind)
    for top in range(0, len(image), rows):
        begin = max(0, top - halo)
        bottom = min(len(image), top + rows)
        mask[top:bottom] = local(image[begin : bottom + halo])[top - begin : bottom - begin]
    return mask


def _root(variance: Image) -> Image:
    root: Image = np.sqrt(np.maximum(variance, 0))
    return root
