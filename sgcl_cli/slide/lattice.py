"""From a tissue mask to patches: corners, lattice cells, tissue share. Pure functions of arrays.

A slide has one lattice, with its origin at the slide's: the patch of cell (column, row) has its top-left corner at
floor(cell * stride + 0.5), in level-0 pixels, and covers a square whose side is a real number. Patches lie wholly inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-6  # level-0 pixels forgiven at the slide's far edge


@dataclass(frozen=True)
class Geometry:
    """Patches of ``patch_size`` pixels at ``mpp`` on a slide whose level 0 has ``mpp_level0``; ``overlap`` in patch pixels."""

    patch_size: int
    overlap: int
    mpp: float
    mpp_level0: float

    @property
    def patch_size_level0(self) -> float:
        """Side of the field of view, level-0 pixels."""
        return self.patch_size * self.mpp / self.mpp_level0

    @property
    def stride_level0(self) -> float:
        """Step of the lattice, level-0 pixels."""
        return (self.patch_size - self.overlap) * self.mpp / self.mpp_level0

    def corners(self, length: int) -> NDArray[np.int64]:
        """Corners along an axis of ``length`` level-0 pixels, int64; entry ``i`` belongs to cell ``i``."""
        count = int(np.floor(max(0.0, length - self.patch_size_level0 + 0.5) / self.stride_level0)) + 1
        corners = np.floor(np.arange(count) * self.stride_level0 + 0.5).astype(np.int64)
        inside: NDArray[np.int64] = corners[corners + self.patch_size_level0 <= length + _ROUNDING]
        return inside


@dataclass(frozen=True)
class Lattice:
    """The patches kept, row by row.

    :ivar coords: int64 (N, 2), x and y of the top-left corner, level-0 pixels.
    :ivar grid: int32 (N, 2), column and row.
    :ivar tissue: float32 (N,), share of the patch that is tissue.
    """

    coords: NDArray[np.int64]
    grid: NDArray[np.int32]
    tissue: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.coords)

    def where(self, kept: NDArray[np.bool_]) -> Lattice:
        """The patches for which ``kept``, bool (N,), is true."""
        return Lattice(self.coords[kept], self.grid[kept], self.tissue[kept])


def cells(size: tuple[int, int], geometry: Geometry) -> int:
    """How many patches the slide's lattice has, tissue or not; ``size`` is (width, height) in level-0 pixels."""
    return len(geometry.corners(size[0])) * len(geometry.corners(size[1]))


def lay(mask: NDArray[np.bool_], size: tuple[int, int], geometry: Geometry, min_tissue: float) -> Lattice:
    """The patches of which at least ``min_tissue`` is tissue.

    :param mask: bool (H, W), tissue on a thumbnail of the whole slide.
    :param size: (width, height) of level 0, pixels.
    """
    xs, ys = geometry.corners(size[0]), geometry.corners(size[1])
    share = box_shares(mask, size, xs, ys, geometry.patch_size_level0)
    rows, columns = np.nonzero(share >= min_tissue)
    return Lattice(
        coords=np.stack([xs[columns], ys[rows]], axis=1),
        grid=np.stack([columns, rows], axis=1).astype(np.int32),
        tissue=share[rows, columns],
    )


def shares(mask: NDArray[np.bool_], size: tuple[int, int], geometry: Geometry, lattice: Lattice) -> NDArray[np.float32]:
    """Share of what ``mask`` shows in each patch, float32 (N,); ``mask`` and ``size`` as of ``lay``."""
    xs, ys = geometry.corners(size[0]), geometry.corners(size[1])
    return box_shares(mask, size, xs, ys, geometry.patch_size_level0)[lattice.grid[:, 1], lattice.grid[:, 0]]


def box_shares(
    mask: NDArray[np.bool_] | NDArray[np.float32],
    size: tuple[float, float],
    xs: NDArray[np.int64] | NDArray[np.float64],
    ys: NDArray[np.int64] | NDArray[np.float64],
    side: float,
) -> NDArray[np.float32]:
    """Share of what ``mask`` shows in the squares of ``side`` at all pairs of ``ys`` and ``xs``, float32 (len(ys), len(xs)).

    The mask, bool or 0 to 1 over ``size`` pixels, is constant within a cell, so its integral is bilinear between the knots of
    the summed-area table and the sums over boxes with fractional edges are exact (Crow 1984, "Summed-area tables for texture
    mapping").
    """
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1))
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1, out=table[1:, 1:])
    down, across = height / size[1], width / size[0]
    bands = _at(table, (ys + side) * down) - _at(table, ys * down)
    boxes = _at(bands.T, (xs + side) * across) - _at(bands.T, xs * across)
    share: NDArray[np.float32] = np.clip(boxes.T / (side * down * side * across), 0, 1).astype(np.float32)
    return share


def _at(table: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at fractional positions, linearly between two rows."""
    inside = np.clip(positions, 0, len(table) - 1)
    below = np.minimum(inside.astype(np.int64), len(table) - 2)
    share = (inside - below)[:, None]
    mixed: NDArray[np.float64] = table[below] * (1 - share) + table[below + 1] * share
    return mixed
