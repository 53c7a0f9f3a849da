"""Labels of patches from annotations. Pure functions of arrays.

Polygons, discs and mask images are converted to layers: the coverage of each cell of a fine grid, per class. The share of a patch
is a sum over a box of cells, and the label follows from the shares. All coordinates are level-0 pixels, x before y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.config import choices
from sgcl_cli.slide.lattice import Geometry, Lattice, Sides, shares_at

Ring = NDArray[np.float64]
Layer = NDArray[np.float32]
Rule = choices.LabelRule

_FINENESS = 16  # cells of the grid along a patch
_BAND = 2**22  # cells in memory at once
_DISC_CORNERS = 48
_TOUCHED = 1e-6  # smallest share of a patch that counts
_PURE = 0.99


@dataclass(frozen=True)
class Window:
    """A band of a grid, over its full width.

    :ivar first: index of its first row in the grid.
    :ivar rows: number of rows.
    :ivar columns: number of columns.
    :ivar pitch: (width, height) of a cell, level-0 pixels.
    """

    first: int
    rows: int
    columns: int
    pitch: tuple[float, float]

    @property
    def top(self) -> float:
        """Upper edge, level-0 pixels."""
        return self.first * self.pitch[1]

    @property
    def size(self) -> tuple[float, float]:
        """(width, height), level-0 pixels."""
        return self.columns * self.pitch[0], self.rows * self.pitch[1]


@dataclass(frozen=True)
class Region:
    """A polygon of a class: its outline and its holes, each float64 (V, 2), closed or not."""

    name: str
    outline: Ring
    holes: tuple[Ring, ...] = ()

    def moved(self, by: tuple[float, float]) -> Region:
        """The region shifted by (x, y) level-0 pixels."""
        return Region(self.name, self.outline + by, tuple(hole + by for hole in self.holes))


class Annotation(Protocol):
    """The annotation of one slide."""

    @property
    def corner(self) -> tuple[float, float]:
        """(x, y) of the grid's corner, level-0 pixels."""

    @property
    def names(self) -> frozenset[str]:
        """The classes that occur."""

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """The grid of the layers: (width, height) of a cell in level-0 pixels, and the number of (columns, rows).

        :param size: (width, height) of level 0, pixels.
        :param sides: (width, height) of a patch, level-0 pixels.
        """

    def layer(self, name: str, window: Window) -> Layer:
        """Share of each cell that a class covers, float32 (rows, columns), 0 to 1."""

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """Whether each patch contains the centre of a disc, bool (N,); None for annotations of areas."""


@dataclass(frozen=True)
class Areas:
    """Polygons.

    :ivar regions: polygons of classes.
    :ivar cut_out: polygons without a class, which are subtracted from all classes.
    """

    regions: tuple[Region, ...]
    cut_out: tuple[Region, ...] = ()
    corner: ClassVar[tuple[float, float]] = (0.0, 0.0)

    @property
    def names(self) -> frozenset[str]:
        """The classes that occur."""
        return frozenset(region.name for region in self.regions)

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """Sixteen cells along a patch."""
        across, down = sides[0] / _FINENESS, sides[1] / _FINENESS
        return (across, down), (math.ceil(size[0] / across), math.ceil(size[1] / down))

    def layer(self, name: str, window: Window) -> Layer:
        """See ``Annotation``; exact for one polygon; where several of a class share a cell, their areas add up to at most 1."""
        covered = coverage([region for region in self.regions if region.name == name], window)
        return np.maximum(covered - coverage(self.cut_out, window), 0) if self.cut_out else covered

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """None: these are areas."""
        return None


@dataclass(frozen=True)
class Points:
    """Discs, such as spots of spatial transcriptomics.

    :ivar centres: float64 (n, 2), x and y, level-0 pixels.
    :ivar radii: float64 (n,), level-0 pixels.
    :ivar classes: of each disc.
    """

    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    classes: tuple[str, ...]
    corner: ClassVar[tuple[float, float]] = (0.0, 0.0)

    @property
    def names(self) -> frozenset[str]:
        """The classes that occur."""
        return frozenset(self.classes)

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """Sixteen cells along a patch."""
        return Areas(()).grid(size, sides)

    def layer(self, name: str, window: Window) -> Layer:
        """See ``Annotation``; discs are polygons of the same area."""
        chosen = [number for number, given in enumerate(self.classes) if given == name]
        return coverage([Region(name, _disc(self.centres[n], float(self.radii[n]))) for n in chosen], window)

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """Whether a centre is in [x, x + width) and [y, y + height) of each patch."""
        held = np.zeros(len(coords), bool)
        for centre in self.centres:
            held |= ((coords <= centre) & (centre < coords + sides)).all(axis=1)
        return held


@dataclass(frozen=True)
class Raster:
    """A mask image over the slide or a part of it.

    :ivar values: (H, W), whole numbers.
    :ivar scale: (x, y) level-0 pixels per mask pixel.
    :ivar classes: class of each value; other values have no class.
    :ivar corner: (x, y) of its top-left corner, level-0 pixels.
    """

    values: NDArray[np.integer]
    scale: tuple[float, float]
    classes: dict[int, str]
    corner: tuple[float, float] = (0.0, 0.0)

    @property
    def names(self) -> frozenset[str]:
        """The classes that may occur."""
        return frozenset(self.classes.values())

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """The pixels of the mask."""
        return self.scale, (self.values.shape[1], self.values.shape[0])

    def layer(self, name: str, window: Window) -> Layer:
        """See ``Annotation``; 1 at pixels with a value of the class."""
        chosen = [value for value, given in self.classes.items() if given == name]
        return np.isin(self.values[window.first : window.first + window.rows], chosen).astype(np.float32)

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """None: these are areas."""
        return None


@dataclass(frozen=True)
class PatchLabels:
    """Labels of N patches.

    :ivar label: int16 (N,), index of the class; -1 for none.
    :ivar share: float32 (N,), share of the patch that this class covers; 0 for none.
    """

    label: NDArray[np.int16]
    share: NDArray[np.float32]

    def where(self, kept: NDArray[np.bool_]) -> PatchLabels:
        """The labels of the patches for which ``kept``, bool (N,), is True."""
        return PatchLabels(self.label[kept], self.share[kept])


def label_patches(
    annotation: Annotation | None,
    names: Sequence[str],
    rule: Rule,
    lattice: Lattice,
    geometry: Geometry,
    *,
    size: tuple[int, int],
) -> PatchLabels:
    """The class of each patch.

    ``majority``: the class with the largest share, if that is at least the uncovered share. ``any``: the class with the largest
    share, however small. ``pure``: the class that covers at least 99 %, if no other covers more than 1 %. Of equal shares, that
    of the class earlier in ``names`` is used. Tissue between points is unknown rather than without class, so for points the
    uncovered share is ignored, and ``majority`` and ``pure`` require the centre of a disc in the patch instead.

    :param names: classes in the order of their labels; others are ignored.
    :param size: (width, height) of level 0, pixels.
    """
    count = len(lattice)
    if annotation is None or not names or not count:
        return PatchLabels(np.full(count, -1, np.int16), np.zeros(count, np.float32))
    shares, covered = class_shares(annotation, names, lattice, geometry, size)
    best = shares.argmax(axis=0)
    highest = shares.max(axis=0)
    others = np.partition(shares, -2, axis=0)[-2] if len(names) > 1 else np.zeros_like(highest)
    anchored = annotation.anchored(lattice.coords, geometry.sides)
    if rule == "any":
        applies = highest > _TOUCHED
    elif rule == "majority":
        applies = (highest > _TOUCHED) & (highest >= 1 - covered if anchored is None else anchored)
    elif anchored is None:
        applies = (highest >= _PURE) & (others <= 1 - _PURE)
    else:
        applies = anchored & (others <= _TOUCHED)
    label = np.where(applies, best, -1).astype(np.int16)
    return PatchLabels(label, np.where(applies, highest, 0).astype(np.float32))


def class_shares(
    annotation: Annotation, names: Sequence[str], lattice: Lattice, geometry: Geometry, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of each patch that each class covers, (classes, N), and that all of them cover together, (N,); rounded to 1e-6."""
    corners = lattice.coords - np.asarray(annotation.corner)
    shares, covered = np.zeros((len(names), len(lattice))), np.zeros(len(lattice))
    for first, last, window in _bands(annotation, np.unique(corners[:, 1]), geometry.sides, size):
        chosen = np.flatnonzero((corners[:, 1] >= first) & (corners[:, 1] <= last))
        if not window.rows:
            continue
        places = corners[chosen] - np.array([0.0, window.top])
        union = np.zeros((window.rows, window.columns), np.float32)
        for number, name in enumerate(names):
            if name not in annotation.names:
                continue
            layer = annotation.layer(name, window)
            shares[number, chosen] = shares_at(layer, window.size, places, geometry.sides)
            np.minimum(union + layer, 1, out=union)
        covered[chosen] = shares_at(union, window.size, places, geometry.sides)
    return np.round(shares, 6), np.round(covered, 6)


def region_mask(regions: Sequence[Region], shape: tuple[int, int], scale: tuple[float, float]) -> NDArray[np.bool_]:
    """The pixels of a thumbnail that regions of any class cover to at least one third; bool ``shape``.

    Outlines of masks run a quarter of a pixel inside the mask (``overlay.outlines``), so the tip of a bump one pixel wide is
    covered to 3/8; with a threshold of one third, a mask is restored exactly from its outlines.

    :param shape: (H, W).
    :param scale: (x, y) level-0 pixels per thumbnail pixel.
    """
    return coverage(regions, Window(0, shape[0], shape[1], scale)) >= 1 / 3


def coverage(regions: Sequence[Region], window: Window) -> Layer:
    """Share of each cell that the regions cover, float32 (rows, columns): the sum over regions, at most 1."""
    total = np.zeros((window.rows, window.columns), np.float32)
    for region in regions:
        outline = _in_cells(region.outline, window)
        low = np.floor(np.clip(outline.min(axis=0), 0, (window.columns, window.rows))).astype(int)
        high = np.ceil(np.clip(outline.max(axis=0), 0, (window.columns, window.rows))).astype(int)
        (left, top), (right, bottom) = low, high
        if left >= right or top >= bottom:
            continue
        box = bottom - top, right - left
        covered = ring_coverage(outline - low, box)
        for hole in region.holes:
            covered -= ring_coverage(_in_cells(hole, window) - low, box)
        total[top:bottom, left:right] += np.maximum(covered, 0)
    return np.minimum(total, 1, out=total)


def ring_coverage(ring: Ring, shape: tuple[int, int]) -> Layer:
    """The exact area of a ring's interior (winding number other than 0) in each cell of unit side, float32 ``shape``.

    Green's theorem cell by cell, as in font rasterisers: an edge within one cell adds its height to all cells on its right, and
    to its own cell the part of it on its right.

    :param ring: float64 (V, 2), x and y in cells; may extend beyond the grid.
    :param shape: (rows, columns).
    """
    height, width = shape
    pieces = _cut(ring, shape)
    middle = pieces.mean(axis=0)
    rise = pieces[1, :, 1] - pieces[0, :, 1]
    column, row = np.maximum(np.floor(middle[:, 0]), 0).astype(np.int64), np.floor(middle[:, 1]).astype(np.int64)
    here = (row >= 0) & (row < height) & (column < width)
    column, row, rise = column[here], row[here], rise[here]
    right = np.clip(column + 1 - middle[here, 0], 0, 1)
    place = row * (width + 1) + column
    cells = height * (width + 1)
    steps = np.bincount(place, rise * right, cells) + np.bincount(place + 1, rise * (1 - right), cells)
    winding = np.cumsum(steps.reshape(height, width + 1), axis=1)[:, :width]
    return np.minimum(np.abs(winding), 1).astype(np.float32)


def _cut(ring: Ring, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The edges of a ring, cut at the lines of the grid: start and end of each piece, float64 (2, pieces, 2)."""
    starts, ends = ring, np.roll(ring, -1, axis=0)
    every = np.arange(len(ring))
    edges, places = [every, every], [np.zeros(len(ring)), np.ones(len(ring))]
    for axis, last_line in ((0, shape[1]), (1, shape[0])):
        a, b = starts[:, axis], ends[:, axis]
        first = np.maximum(np.floor(np.minimum(a, b)) + 1, 0)
        last = np.minimum(np.ceil(np.maximum(a, b)) - 1, last_line)
        counts = np.maximum(last - first + 1, 0).astype(np.int64)
        edge = np.repeat(every, counts)
        line = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
        edges.append(edge)
        places.append((line - a[edge]) / (b - a)[edge])
    edge, place = np.concatenate(edges), np.concatenate(places)
    order = np.lexsort((place, edge))
    edge, place = edge[order], place[order]
    points = starts[edge] * (1 - place[:, None]) + ends[edge] * place[:, None]
    same = edge[:-1] == edge[1:]
    return np.stack([points[:-1][same], points[1:][same]])


def _bands(
    annotation: Annotation, tops: NDArray[np.float64], sides: Sides, size: tuple[int, int]
) -> Iterator[tuple[float, float, Window]]:
    """Windows of bounded size that cover all patches, each with the first and the last upper edge of its patches.

    :param tops: upper edges of patches, sorted, level-0 pixels from the grid's corner.
    """
    pitch, (columns, rows) = annotation.grid(size, sides)
    height = _BAND * pitch[1] / max(1, columns)
    start = 0
    while start < len(tops):
        stop = int(np.searchsorted(tops, tops[start] + height, side="right"))
        first, last = float(tops[start]), float(tops[stop - 1])
        above = max(0, int(first / pitch[1]))
        below = min(rows, math.ceil((last + sides[1]) / pitch[1]))
        yield first, last, Window(above, max(0, below - above), columns, pitch)
        start = stop


def _in_cells(ring: Ring, window: Window) -> Ring:
    return (ring - (0, window.top)) / window.pitch


def _disc(centre: NDArray[np.float64], radius: float) -> Ring:
    """A regular polygon with the area of the disc."""
    turn = 2 * math.pi / _DISC_CORNERS
    angles = turn * np.arange(_DISC_CORNERS)
    reach = radius * math.sqrt(turn / math.sin(turn))
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
