"""From a map of regions to amounts of stain: haematoxylin and eosin at every pixel of level 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthetic import nuclei
from synthetic.noise import Block, Field, Place, Plane, Points, ramp, smooth_field, smooth_noise, white_noise
from synthetic.regions import GLASS, KINDS, RegionMap

NEST, LUMEN = -0.45, 1.75
"""Levels of the gland field above which there is carcinoma, and above which there is the hollow of a gland."""


@dataclass(frozen=True)
class Texture:
    """What lies between the nuclei of one kind, one value per position.

    :param haematoxylin: ground staining; :param eosin: the same for eosin; :param matter: 0 in holes, 1 elsewhere.
    """

    haematoxylin: Plane
    eosin: Plane
    matter: Plane


class Tissue:
    """A piece of tissue on glass.

    :param size: (width, height) of level 0, pixels; :param mpp: um per pixel of level 0.
    """

    def __init__(self, regions: RegionMap, size: tuple[int, int], mpp: float, rng: np.random.Generator) -> None:
        self.size, self.mpp = size, mpp
        self._membership = [_soft(regions.kinds == index, regions.cell) for index in range(len(KINDS))]
        self._inside = _soft(regions.kinds != GLASS, regions.cell)
        self._tilt = float(rng.uniform(0, np.pi))
        self._strands, self._bundles, self._clefts = (_streak_table(rng) for _ in range(3))
        self._fields = {
            name: smooth_field(size, um / mpp, rng)
            for name, um in {
                "ragged": 6, "bend": 130, "wave": 28, "drift": 150, "loose": 55, "glands": 42, "buds": 16,
                "grain": 1.6, "mesh": 3.2, "pink": 9, "fibrous": 2.2, "thickness": 260, "folds": 60,
            }.items()
        }  # fmt: skip
        self._vacuoles = _vacuoles(size, mpp, rng)
        self._chromatin = self._place_nuclei(rng)

    def weights(self, place: Place) -> Plane:
        """Share of each kind, float32 (kinds, ...); they sum to 1 inside the tissue and to 0 on glass."""
        inside = ramp(place.of(self._inside) + 0.12 * place.of(self._fields["ragged"]), 0.42, 0.58)
        weights = np.stack([ramp(place.of(member), 0.25, 0.75) for member in self._membership])
        weights *= inside / np.maximum(weights.sum(axis=0), 1e-3)
        return weights

    def stains(self, block: Block) -> tuple[Plane, Plane, Plane]:
        """Haematoxylin and eosin, each float32 of the block's shape, and the :meth:`weights` of the kinds."""
        chromatin = self._chromatin_in(block)
        weights = self.weights(block)
        haematoxylin, eosin = np.zeros_like(chromatin), np.zeros_like(chromatin)
        for weight, texture_of in zip(weights, (self.carcinoma, self.stroma, self.lymphoid, self.fat), strict=True):
            if weight.any():
                texture = texture_of(block)
                matter = weight * texture.matter
                haematoxylin += matter * texture.haematoxylin
                eosin += matter * texture.eosin
        thickness = 1 + 0.07 * block.of(self._fields["thickness"]) + 0.03 * block.of(self._fields["folds"])
        eosin *= 1 - 0.45 * np.minimum(chromatin, 1)
        return (haematoxylin + chromatin) * thickness, eosin * thickness, weights

    def _chromatin_in(self, block: Block) -> Plane:
        """Haematoxylin of the nuclei in a block, 0 beyond the slide."""
        x0, y0, x1, y1 = max(block.x0, 0), max(block.y0, 0), min(block.x1, self.size[0]), min(block.y1, self.size[1])
        border = y0 - block.y0, block.y1 - y1, x0 - block.x0, block.x1 - x1
        whole = cv2.copyMakeBorder(self._chromatin[y0:y1, x0:x1], *border, cv2.BORDER_CONSTANT, value=0)
        return np.ascontiguousarray(whole[:: block.every, :: block.every])

    def carcinoma(self, place: Place) -> Texture:
        """Nests and glands of amphophilic cells, in a little stroma from which they have shrunk."""
        glands, stroma = self._glands(place), self.stroma(place)
        nest = ramp(glands, NEST - 0.08, NEST + 0.08)
        cytoplasm = 0.46 + 0.09 * place.of(self._fields["grain"])
        hollow = np.maximum(ramp(glands, LUMEN - 0.06, LUMEN + 0.06), 0.5 * ramp(-abs(glands - NEST), -0.16, -0.02))
        return Texture(
            haematoxylin=nest * 0.15 + (1 - nest) * stroma.haematoxylin,
            eosin=nest * cytoplasm + (1 - nest) * stroma.eosin,
            matter=(nest + (1 - nest) * stroma.matter) * (1 - 0.95 * hollow),
        )

    def stroma(self, place: Place) -> Texture:
        """Collagen: wavy strands of eosin in a bluish ground, with clefts between the bundles."""
        along, across = self._fibres(place)
        strands = 0.6 * _streaks(self._strands, along / 90, across / 2.6)
        strands += 0.8 * _streaks(self._bundles, along / 130, across / 7)
        clefts = _streaks(self._clefts, along / 75, across / 6.5) + 0.45 * place.of(self._fields["loose"])
        return Texture(
            haematoxylin=np.maximum(0.24 + 0.06 * strands, 0),
            eosin=np.maximum(0.62 + 0.24 * strands, 0.12),
            matter=1 - 0.95 * ramp(clefts, 0.8, 1.2),
        )

    def lymphoid(self, place: Place) -> Texture:
        """The pale, finely meshed ground between lymphocytes."""
        eosin = np.maximum(0.42 + 0.12 * place.of(self._fields["pink"]), 0)
        gaps = ramp(place.of(self._fields["mesh"]), 0.0, 0.9)
        return Texture(haematoxylin=np.full_like(eosin, 0.05), eosin=eosin, matter=1 - 0.85 * gaps)

    def fat(self, place: Place) -> Texture:
        """Round empty vacuoles between walls."""
        eosin = 0.8 + 0.14 * place.of(self._fields["fibrous"])
        return Texture(np.full_like(eosin, 0.3), eosin, matter=1 - 0.96 * place.of(self._vacuoles))

    def _glands(self, place: Place) -> Plane:
        return place.of(self._fields["glands"]) + 0.35 * place.of(self._fields["buds"])

    def _fibres(self, place: Place) -> tuple[Plane, Plane]:
        """Coordinates in um along and across the fibres: those of a tilted plane, bent by smooth noise."""
        x, y = place.x * self.mpp, place.y * self.mpp
        cos, sin = float(np.cos(self._tilt)), float(np.sin(self._tilt))
        bend = 55 * place.of(self._fields["bend"]) + 5 * place.of(self._fields["wave"])
        return cos * x + sin * y + 30 * place.of(self._fields["drift"]), cos * y - sin * x + bend

    def _place_nuclei(self, rng: np.random.Generator) -> Plane:
        """Haematoxylin of all nuclei, float32 (height, width)."""
        canvas = np.zeros(self.size[::-1], np.float32)

        def place(
            kind: nuclei.NucleusKind, spacing: float, jitter: float, where: Callable[[Points], NDArray[np.bool_]],
            angle: Callable[[Points], Plane], *, loose: float,
        ) -> None:  # fmt: skip
            points = Points(*nuclei.scatter(self.size, spacing / self.mpp, jitter, rng).T)
            chosen = where(points) & (rng.random(len(points.x)) > 0.04)
            points = Points(points.x[chosen], points.y[chosen])
            angles = angle(points) + rng.normal(0, loose, len(points.x))
            nuclei.stamp(canvas, points, angles, nuclei.draw_bank(kind, self.mpp, rng), rng)

        place(nuclei.CARCINOMA, 10.2, 0.17, self._in_nest, self._towards_lumen, loose=0.35)
        place(nuclei.SPINDLE, 17.0, 0.25, self._in_stroma, self._with_fibres, loose=0.12)
        place(nuclei.LYMPHOCYTE, 7.9, 0.15, self._in_lymphoid, self._with_fibres, loose=1.0)
        place(nuclei.LYMPHOCYTE, 70.0, 0.30, self._in_stroma, self._with_fibres, loose=1.0)
        place(nuclei.SPINDLE, 15.0, 0.25, self._in_walls, self._along_walls, loose=0.1)
        return canvas

    def _in_nest(self, points: Points) -> NDArray[np.bool_]:
        glands = self._glands(points)
        return (self.weights(points)[0] > 0.5) & (glands > NEST + 0.2) & (glands < LUMEN - 0.2)

    def _in_stroma(self, points: Points) -> NDArray[np.bool_]:
        carcinoma, stroma, _, _ = self.weights(points)
        between = (carcinoma > 0.5) & (self._glands(points) < NEST - 0.15)
        return (between | (stroma > 0.5)) & (self.stroma(points).matter > 0.8)

    def _in_lymphoid(self, points: Points) -> NDArray[np.bool_]:
        return self.weights(points)[2] > 0.5

    def _in_walls(self, points: Points) -> NDArray[np.bool_]:
        return (self.weights(points)[3] > 0.5) & (points.of(self._vacuoles) < 0.02)

    def _towards_lumen(self, points: Points) -> Plane:
        return _steepest(self._glands, points, 4 / self.mpp)

    def _with_fibres(self, points: Points) -> Plane:
        return _steepest(lambda place: self._fibres(place)[1], points, 4 / self.mpp) + np.float32(np.pi / 2)

    def _along_walls(self, points: Points) -> Plane:
        return _steepest(lambda place: place.of(self._vacuoles), points, 6 / self.mpp) + np.float32(np.pi / 2)


def _soft(mask: NDArray[np.bool_], cell: int) -> Field:
    """Membership that falls from 1 to 0 over about two cells."""
    return Field(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7), cell)


ALONG, ACROSS = 64, 16
"""Samples between two independent values of a table of streaks, in its two directions."""


def _streak_table(rng: np.random.Generator) -> Plane:
    """Smooth noise that repeats itself, float32 (1024, 1024), rows across and columns along the fibres."""
    grid = np.pad(white_noise((1024 // ACROSS, 1024 // ALONG), rng), 2, mode="wrap")
    zoomed = cv2.resize(grid, None, fx=ALONG, fy=ACROSS, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(zoomed[2 * ACROSS : -2 * ACROSS, 2 * ALONG : -2 * ALONG])


def _streaks(table: Plane, along: Plane, across: Plane) -> Plane:
    """The table's value at (across, along), both counted in independent values; the nearest sample."""
    row, column = (across * ACROSS).astype(np.int32) & 1023, (along * ALONG).astype(np.int32) & 1023
    return table[row, column]


def _steepest(function: Callable[[Points], Plane], points: Points, reach: float) -> Plane:
    """Direction in which ``function`` rises most, radians from the x axis towards the y axis, over ``reach`` pixels."""
    dx = function(points.moved(reach, 0)) - function(points.moved(-reach, 0))
    dy = function(points.moved(0, reach)) - function(points.moved(0, -reach))
    return np.arctan2(dy, dx)


def _vacuoles(size: tuple[int, int], mpp: float, rng: np.random.Generator) -> Field:
    """1 in the hollow of a fat cell, 0 in the walls; each cell fills its Voronoi polygon with rounded corners."""
    step = max(1, round(1 / mpp))
    um = step * mpp
    shape = size[1] // step + 1, size[0] // step + 1
    seeds = nuclei.scatter(shape[::-1], 40 / um, 0.17, rng).astype(np.int64)
    image = np.ones(shape, np.uint8)
    image[seeds[:, 1], seeds[:, 0]] = 0
    _, cells = cv2.distanceTransformWithLabels(image, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    cells = cells.astype(np.float32)
    same = (cv2.dilate(cells, np.ones((3, 3))) == cv2.erode(cells, np.ones((3, 3)))).astype(np.uint8)
    to_wall = cv2.GaussianBlur(cv2.distanceTransform(same, cv2.DIST_L2, 5) * np.float32(um), (0, 0), 3.2 / um)
    thickness = 3.5 + 0.6 * smooth_noise(shape, 70 / um, rng)
    return Field(ramp(to_wall - thickness, -0.6, 0.6), step)
