"""Lattices of patches over a tissue mask: corners, cells, share of tissue. Pure functions of arrays.

A slide has one lattice, with its origin at the slide's origin: the patch of cell (column, row) has its top-left corner at
floor(cell * stride + 0.5), in level-0 pixels, and covers a square with a side of ``patch_size * mpp / mpp_level0`` level-0
pixels, a real number. A patch is inside the slide if cell * stride + side, before rounding, is; after rounding it may cross the
right or lower edge by at most half a level-0 pixel. If the slide's pixels are oblong, stride and side differ between the axes,
and the patch is a square in µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sides = tuple[float, float]  # (width, height)
Summed = NDArray[np.int32] | NDArray[np.float64]

_ROUNDING = 1e-6  # level-0 pixels; tolerance for floating-point error at the right and lower edge


@dataclass(frozen=True)
class Geometry:
    """Size and spacing of patches on one slide.

    :ivar patch_size: side of a patch, pixels at ``mpp``.
    :ivar overlap: of neighbouring patches, pixels at ``mpp``.
    :ivar mpp: resolution of the patches, µm per pixel.
    :ivar mpp_level0: resolution of level 0, µm per pixel; the horizontal one if pixels are oblong.
    :ivar mpp_level0_down: vertical resolution of level 0; None if it is the same.
    """

    patch_size: int
    overlap: int
    mpp: float
    mpp_level0: float
    mpp_level0_down: float | None = None

    @property
    def square(self) -> bool:
        """Whether the pixels of level 0 are square."""
        return self.mpp_level0_down in (None, self.mpp_level0)

    @property
    def sides(self) -> Sides:
        """Width and height of the field of view, level-0 pixels."""
        return self._level0(self.patch_size)

    @property
    def strides(self) -> Sides:
        """Horizontal and vertical stride of the lattice, level-0 pixels."""
        return self._level0(self.patch_size - self.overlap)

    @property
    def patch_size_level0(self) -> float:
        """Side of the field of view, level-0 pixels; defined for square pixels only."""
        assert self.square
        return self.sides[0]

    @property
    def stride_level0(self) -> float:
        """Stride of the lattice, level-0 pixels; defined for square pixels only."""
        assert self.square
        return self.strides[0]

    def corners(self, length: int, axis: int = 0) -> NDArray[np.int64]:
        """Corners of the cells along one axis, int64, level-0 pixels.

        :param length: of the slide along the axis, level-0 pixels.
        :param axis: 0 for x, 1 for y.
        """
        side, stride = self.sides[axis], self.strides[axis]
        if side > length + _ROUNDING:
            return np.zeros(0, np.int64)
        count = int(np.floor((length - side + _ROUNDING) / stride)) + 1
        corners: NDArray[np.int64] = np.floor(np.arange(count) * stride + 0.5).astype(np.int64)
        return corners

    def _level0(self, pixels: int) -> Sides:
        down = self.mpp_level0 if self.mpp_level0_down is None else self.mpp_level0_down
        return pixels * self.mpp / self.mpp_level0, pixels * self.mpp / down


@dataclass(frozen=True)
class Lattice:
    """Selected patches, row by row.

    :ivar coords: int64 (N, 2), x and y of the top-left corner, level-0 pixels.
    :ivar grid: int32 (N, 2), column and row; -1 for patches that are on no lattice.
    :ivar tissue: float32 (N,), share of the patch that is tissue; NaN if unknown.
    """

    coords: NDArray[np.int64]
    grid: NDArray[np.int32]
    tissue: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.coords)

    def where(self, kept: NDArray[np.bool_]) -> Lattice:
        """The patches for which ``kept``, bool (N,), is True."""
        return Lattice(self.coords[kept], self.grid[kept], self.tissue[kept])


def cells(size: tuple[int, int], geometry: Geometry) -> int:
    """The number of cells of a slide's lattice, with or without tissue; ``size`` is (width, height) in level-0 pixels."""
    return len(geometry.corners(size[0])) * len(geometry.corners(size[1], 1))


def lay(mask: NDArray[np.bool_], size: tuple[int, int], geometry: Geometry, min_tissue: float) -> Lattice:
    """The patches with a share of tissue of at least ``min_tissue``.

    :param mask: bool (H, W), tissue on a thumbnail of the whole slide.
    :param size: (width, height) of level 0, pixels.
    """
    xs, ys = geometry.corners(size[0]), geometry.corners(size[1], 1)
    share = box_shares(mask, size, xs, ys, geometry.sides)
    rows, columns = np.nonzero(share >= min_tissue)
    return Lattice(
        coords=np.stack([xs[columns], ys[rows]], axis=1),
        grid=np.stack([columns, rows], axis=1).astype(np.int32),
        tissue=share[rows, columns],
    )


def shares(mask: NDArray[np.bool_], size: tuple[int, int], geometry: Geometry, lattice: Lattice) -> NDArray[np.float32]:
    """Share of each patch that ``mask`` covers, float32 (N,).

    :param mask: bool (H, W), on a thumbnail of the whole slide.
    :param size: (width, height) of level 0, pixels.
    """
    return shares_at(mask, size, lattice.coords, geometry.sides)


def box_shares(
    mask: NDArray[np.bool_] | NDArray[np.float32],
    size: tuple[float, float],
    xs: NDArray[np.int64] | NDArray[np.float64],
    ys: NDArray[np.int64] | NDArray[np.float64],
    sides: Sides,
) -> NDArray[np.float32]:
    """Share of each box that a mask covers, for boxes on a grid, float32 (len(ys), len(xs)).

    The mask is constant within each of its cells, so its integral is bilinear between the entries of the summed-area table, and
    the sums over boxes with fractional edges are exact (Crow 1984, "Summed-area tables for texture mapping").

    :param mask: (H, W), bool or 0 to 1, over an image of ``size`` pixels.
    :param xs: left edges of the boxes, pixels of that image.
    :param ys: upper edges.
    :param sides: (width, height) of a box.
    """
    table, across, down = _summed(mask, size)
    left, top = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    bands = _at(table, (top + sides[1]) * down) - _at(table, top * down)
    boxes = _at(bands.T, (left + sides[0]) * across) - _at(bands.T, left * across)
    share: NDArray[np.float32] = np.clip(boxes.T / (sides[1] * down * sides[0] * across), 0, 1).astype(np.float32)
    return share


def shares_at(
    mask: NDArray[np.bool_] | NDArray[np.float32],
    size: tuple[float, float],
    corners: NDArray[np.int64] | NDArray[np.float64],
    sides: Sides,
) -> NDArray[np.float32]:
    """Share of each box that a mask covers, for boxes at any ``corners``, (N, 2), x and y; float32 (N,). See ``box_shares``."""
    table, across, down = _summed(mask, size)
    scale = np.array([across, down])
    left, top = (np.asarray(corners, np.float64) * scale).T
    right, bottom = ((np.asarray(corners, np.float64) + sides) * scale).T
    boxes = (_mixed(table, bottom, right) - _mixed(table, top, right)) - (
        _mixed(table, bottom, left) - _mixed(table, top, left)
    )
    share: NDArray[np.float32] = np.clip(boxes / (sides[1] * down * sides[0] * across), 0, 1).astype(np.float32)
    return share


def _summed(mask: NDArray[np.bool_] | NDArray[np.float32], size: tuple[float, float]) -> tuple[Summed, float, float]:
    """The summed-area table (H + 1, W + 1), and its horizontal and vertical cells per pixel of ``size``."""
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), np.int32 if mask.dtype == np.bool_ else np.float64)
    np.cumsum(mask, axis=0, dtype=table.dtype, out=table[1:, 1:])
    for row in table[1:]:
        np.cumsum(row, out=row)
    return table, width / size[0], height / size[1]


def _mixed(table: Summed, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table at fractional positions, by bilinear interpolation."""
    (above, down), (before, across) = (
        _between(places, n) for places, n in zip((rows, columns), table.shape, strict=True)
    )
    upper = table[above, before] * (1 - across) + table[above, before + 1] * across
    lower = table[above + 1, before] * (1 - across) + table[above + 1, before + 1] * across
    mixed: NDArray[np.float64] = upper * (1 - down) + lower * down
    return mixed


def _at(table: Summed, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at fractional positions, by linear interpolation."""
    below, share = _between(positions, len(table))
    mixed: NDArray[np.float64] = table[below] * (1 - share[:, None]) + table[below + 1] * share[:, None]
    return mixed


def _between(positions: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The entry before each position, of ``count`` entries, and the distance of the position from it."""
    inside = np.clip(positions, 0, count - 1)
    below = np.minimum(inside.astype(np.int64), count - 2)
    return below, inside - below
