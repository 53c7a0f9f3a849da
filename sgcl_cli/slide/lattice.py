"""From a tissue mask to patches: corners, lattice cells, tissue share. Pure functions of arrays.

A slide has one lattice, with its origin at the slide's: the patch of cell (column, row) has its top-left corner at
floor(cell * stride + 0.5), in level-0 pixels, and covers a square whose side is a real number. Whether it lies inside is decided
by cell * stride, before rounding, so rounding may push it over the slide's far edge by half a level-0 pixel at most. Where the
slide's pixels are oblong, stride and side are two numbers, and the square is one in um.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sides = tuple[float, float]  # (width, height)
Summed = NDArray[np.int32] | NDArray[np.float64]

_ROUNDING = 1e-6  # level-0 pixels forgiven at the slide's far edge


@dataclass(frozen=True)
class Geometry:
    """Patches of ``patch_size`` pixels at ``mpp`` on a slide whose level 0 has ``mpp_level0``; ``overlap`` in patch pixels.

    ``mpp_level0_down`` is the resolution down the slide where its pixels are oblong; ``mpp_level0`` is the one across then.
    """

    patch_size: int
    overlap: int
    mpp: float
    mpp_level0: float
    mpp_level0_down: float | None = None

    @property
    def square(self) -> bool:
        """Whether the slide's pixels are."""
        return self.mpp_level0_down in (None, self.mpp_level0)

    @property
    def sides(self) -> Sides:
        """Width and height of the field of view, level-0 pixels."""
        return self._level0(self.patch_size)

    @property
    def strides(self) -> Sides:
        """Steps of the lattice across and down, level-0 pixels."""
        return self._level0(self.patch_size - self.overlap)

    @property
    def patch_size_level0(self) -> float:
        """Side of the field of view, level-0 pixels; only where they are square."""
        assert self.square
        return self.sides[0]

    @property
    def stride_level0(self) -> float:
        """Step of the lattice, level-0 pixels; only where they are square."""
        assert self.square
        return self.strides[0]

    def corners(self, length: int, axis: int = 0) -> NDArray[np.int64]:
        """Corners along an axis, 0 across and 1 down, of ``length`` level-0 pixels, int64; entry ``i`` belongs to cell ``i``."""
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
    """The patches kept, row by row.

    :ivar coords: int64 (N, 2), x and y of the top-left corner, level-0 pixels.
    :ivar grid: int32 (N, 2), column and row; -1 where there is no lattice.
    :ivar tissue: float32 (N,), share of the patch that is tissue; NaN where that is unknown.
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
    return len(geometry.corners(size[0])) * len(geometry.corners(size[1], 1))


def lay(mask: NDArray[np.bool_], size: tuple[int, int], geometry: Geometry, min_tissue: float) -> Lattice:
    """The patches of which at least ``min_tissue`` is tissue.

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
    """Share of what ``mask`` shows in each patch, float32 (N,); ``mask`` and ``size`` as of ``lay``."""
    return shares_at(mask, size, lattice.coords, geometry.sides)


def box_shares(
    mask: NDArray[np.bool_] | NDArray[np.float32],
    size: tuple[float, float],
    xs: NDArray[np.int64] | NDArray[np.float64],
    ys: NDArray[np.int64] | NDArray[np.float64],
    sides: Sides,
) -> NDArray[np.float32]:
    """Share of what ``mask`` shows in the boxes of ``sides`` at all pairs of ``ys`` and ``xs``, float32 (len(ys), len(xs)).

    The mask, bool or 0 to 1 over ``size`` pixels, is constant within a cell, so its integral is bilinear between the knots of
    the summed-area table and the sums over boxes with fractional edges are exact (Crow 1984, "Summed-area tables for texture
    mapping").
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
    """The same at any places: the share of the box of ``sides`` at each of ``corners``, (N, 2), float32 (N,)."""
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
    """The summed-area table (H + 1, W + 1), and its cells per pixel of ``size`` across and down."""
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), np.int32 if mask.dtype == np.bool_ else np.float64)
    np.cumsum(mask, axis=0, dtype=table.dtype, out=table[1:, 1:])
    for row in table[1:]:
        np.cumsum(row, out=row)
    return table, width / size[0], height / size[1]


def _mixed(table: Summed, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table at fractional places, bilinearly."""
    (above, down), (before, across) = (
        _between(places, n) for places, n in zip((rows, columns), table.shape, strict=True)
    )
    upper = table[above, before] * (1 - across) + table[above, before + 1] * across
    lower = table[above + 1, before] * (1 - across) + table[above + 1, before + 1] * across
    mixed: NDArray[np.float64] = upper * (1 - down) + lower * down
    return mixed


def _at(table: Summed, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at fractional positions, linearly between two rows."""
    below, share = _between(positions, len(table))
    mixed: NDArray[np.float64] = table[below] * (1 - share[:, None]) + table[below + 1] * share[:, None]
    return mixed


def _between(positions: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The knot before each position among ``count``, and how far beyond it the position is."""
    inside = np.clip(positions, 0, count - 1)
    below = np.minimum(inside.astype(np.int64), count - 2)
    return below, inside - below
