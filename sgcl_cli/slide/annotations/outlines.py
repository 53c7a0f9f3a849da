"""From what people drew to a class per patch. Pure functions of arrays.

Polygons, discs and mask images become layers: for each class, how much of every cell of a fine grid it covers. The share of
a patch follows from sums over boxes, and the label from the shares. All coordinates are level-0 pixels, x before y.
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
_BAND = 2**22  # cells held at once
_DISC_CORNERS = 48
_TOUCHED = 1e-6  # least share of a patch that counts at all
_PURE = 0.99


@dataclass(frozen=True)
class Window:
    """A band of a grid over the slide, from its left edge.

    :ivar first: its first row in the grid.
    :ivar pitch: (x, y), level-0 pixels of a cell.
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
        """The same, (x, y) level-0 pixels further right and down."""
        return Region(self.name, self.outline + by, tuple(hole + by for hole in self.holes))


class Annotation(Protocol):
    """What is known about one slide."""

    @property
    def corner(self) -> tuple[float, float]:
        """(x, y) from which the grid counts, level-0 pixels."""

    @property
    def names(self) -> frozenset[str]:
        """The classes that occur."""

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """Pitch (x, y) of the layers' cells in level-0 pixels, and how many (columns, rows) there are.

        :param size: (width, height) of level 0.
        :param sides: of a patch, level-0 pixels.
        """

    def layer(self, name: str, window: Window) -> Layer:
        """How much of each cell a class covers, float32 (rows, columns), 0 to 1."""

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """Patches that hold the centre of a disc, bool (N,); None where areas are annotated, not points."""


@dataclass(frozen=True)
class Areas:
    """Polygons.

    :ivar cut_out: polygons that belong to no class and are taken out of all.
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
        """Exact within each cell for one polygon; where several of a class meet in a cell their areas add up, to 1 at most."""
        covered = coverage([region for region in self.regions if region.name == name], window)
        return np.maximum(covered - coverage(self.cut_out, window), 0) if self.cut_out else covered

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """None: areas need no centre."""
        return None


@dataclass(frozen=True)
class Points:
    """Discs around points, as spatial transcriptomics has them: centres (n, 2), radii (n,), both level-0 pixels."""

    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    classes: tuple[str, ...]
    corner: ClassVar[tuple[float, float]] = (0.0, 0.0)

    @property
    def names(self) -> frozenset[str]:
        """The classes that occur."""
        return frozenset(self.classes)

    def grid(self, size: tuple[int, int], sides: Sides) -> tuple[tuple[float, float], tuple[int, int]]:
        """As of areas."""
        return Areas(()).grid(size, sides)

    def layer(self, name: str, window: Window) -> Layer:
        """Discs as polygons of the same area."""
        chosen = [number for number, given in enumerate(self.classes) if given == name]
        return coverage([Region(name, _disc(self.centres[n], float(self.radii[n]))) for n in chosen], window)

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """Whether a centre lies in [x, x + width) and [y, y + height)."""
        held = np.zeros(len(coords), bool)
        for centre in self.centres:
            held |= ((coords <= centre) & (centre < coords + sides)).all(axis=1)
        return held


@dataclass(frozen=True)
class Raster:
    """An image of class values over the slide, or over a part of it.

    :ivar values: (H, W), whole numbers.
    :ivar scale: (x, y) level-0 pixels per pixel of it.
    :ivar classes: the class of each value; other values are no class.
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
        """The image's own pixels."""
        return self.scale, (self.values.shape[1], self.values.shape[0])

    def layer(self, name: str, window: Window) -> Layer:
        """1 where the pixel has one of the class's values."""
        chosen = [value for value, given in self.classes.items() if given == name]
        return np.isin(self.values[window.first : window.first + window.rows], chosen).astype(np.float32)

    def anchored(self, coords: NDArray[np.int64], sides: Sides) -> NDArray[np.bool_] | None:
        """None: areas need no centre."""
        return None


@dataclass(frozen=True)
class PatchLabels:
    """:ivar label: int16 (N,), index of the class, -1 where none applies.

    :ivar share: float32 (N,), share of the patch that this class covers, 0 where none applies.
    """

    label: NDArray[np.int16]
    share: NDArray[np.float32]

    def where(self, kept: NDArray[np.bool_]) -> PatchLabels:
        """Those of the patches for which ``kept``, bool (N,), is true."""
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

    ``majority``: the class that covers most of the patch, where at least as much as is left uncovered. ``any``: the class that
    covers most, however little. ``pure``: the class that covers at least 99 %, where no other covers more than 1 %. On equal
    shares the class that is earlier in ``names`` wins. Points leave the tissue between them unknown rather than without class:
    there, what is uncovered does not count, and ``majority`` and ``pure`` need the centre of a disc in the patch instead.

    :param names: classes in the order of their labels; others do not count.
    :param size: (width, height) of level 0.
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
    """Share of each patch that each class covers, (classes, N), and that any of them covers, (N,); to a millionth."""
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
    """The pixels of a thumbnail of which the regions, whatever their class, cover at least a third; bool ``shape``.

    Outlines of masks run a quarter of a pixel inside (``overlay.outlines``), so the tip of a bump one pixel wide is covered by
    3/8: at a third, a mask that was written as outlines comes back as it was.

    :param shape: (H, W).
    :param scale: (x, y) level-0 pixels per pixel.
    """
    return coverage(regions, Window(0, shape[0], shape[1], scale)) >= 1 / 3


def coverage(regions: Sequence[Region], window: Window) -> Layer:
    """How much of each cell the regions cover, float32 (rows, columns): the sum over them, 1 at most."""
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
    """Area of the ring's inside in each cell of unit side, float32 ``shape``, exact; inside is where the winding is not 0.

    Green's theorem cell by cell: an edge within one cell adds its height to all cells on its right, and to its own cell the
    share that lies on its right, as rasterisers of fonts do it.

    :param ring: float64 (V, 2), x and y in cells; may leave the grid.
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
    """The ring's edges, cut where they cross lines of the grid: start and end of each piece, float64 (2, pieces, 2)."""
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
    """The first and the last of ``tops``, patches' upper edges in order, with the window that holds them, of bounded size."""
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
    """A regular polygon with the disc's area."""
    turn = 2 * math.pi / _DISC_CORNERS
    angles = turn * np.arange(_DISC_CORNERS)
    reach = radius * math.sqrt(turn / math.sin(turn))
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
