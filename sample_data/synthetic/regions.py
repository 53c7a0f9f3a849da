"""Where the tissue lies and which kind it is: a coarse map of spatially continuous regions, and its polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthetic.noise import Plane, smooth_noise

KINDS = ("carcinoma", "stroma", "lymphoid", "fat")
GLASS = 255
CELL_UM = 8.0
"""Side of one cell of the coarse map, um."""
PART_UM2 = 0.28e6
"""Area of the frame that one part of the partition stands for, um^2."""

COLOURS = {"carcinoma": (200, 0, 0), "stroma": (150, 200, 150), "lymphoid": (80, 40, 160), "fat": (240, 200, 60)}


@dataclass(frozen=True)
class RegionMap:
    """A coarse map of the slide.

    :param kinds: uint8 (rows, columns), one value per cell of ``cell`` x ``cell`` level-0 pixels: an index into
        :data:`KINDS`, or :data:`GLASS`.
    :param cell: side of a cell, level-0 pixels.
    """

    kinds: NDArray[np.uint8]
    cell: int

    def fraction(self, kind: str) -> float:
        """Share of the tissue that is ``kind``."""
        return float(np.mean(self.kinds[self.kinds != GLASS] == KINDS.index(kind)))


def draw_regions(
    size: tuple[int, int], mpp: float, tumour_share: float, rng: np.random.Generator, shape_rng: np.random.Generator
) -> RegionMap:
    """A random piece of tissue divided into continuous regions.

    Outline and partition come from ``shape_rng`` alone, so they do not depend on whether there is tumour.

    :param size: (width, height) of level 0, pixels.
    :param mpp: um per pixel of level 0.
    :param tumour_share: share of the tissue to be carcinoma, 0 for none; met to within one region.
    """
    cell = round(CELL_UM / mpp)
    shape = (-(-size[1] // cell), -(-size[0] // cell))
    tissue = _outline(shape, shape_rng)
    area = size[0] * size[1] * mpp**2
    parts, centres = _partition(tissue, int(np.clip(round(area / PART_UM2), len(KINDS), 10)), shape_rng)
    kind_of_part = _assign(parts[tissue], centres, tumour_share, rng)
    kinds = np.where(tissue, kind_of_part[parts], GLASS).astype(np.uint8)
    return RegionMap(kinds, cell)


def _outline(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """An irregular blob that fills about two thirds of the frame and keeps clear of its border; bool ``shape``."""
    rows, columns = shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
    power = rng.uniform(2.2, 3.0)
    field = 1 - np.abs(x / 0.88) ** power - np.abs(y / 0.88) ** power
    side = max(shape)
    field += 0.28 * smooth_noise(shape, side / 4, rng) + 0.10 * smooth_noise(shape, side / 14, rng)
    field[(np.abs(x) > 0.94) | (np.abs(y) > 0.94)] = -1
    field = cv2.GaussianBlur(field, (0, 0), 2.0)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((field > 0).astype(np.uint8), connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    closed = cv2.morphologyEx((labels == largest).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return closed.astype(bool)


def _partition(
    tissue: NDArray[np.bool_], parts: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Voronoi parts of about equal area with wavy borders.

    :return: part of each cell, int64 of ``tissue``'s shape; centres float32 (parts, 2) as (row, column).
    """
    cells = np.argwhere(tissue).astype(np.float32)
    centres = cells[rng.choice(len(cells), parts, replace=False)]
    sample = cells[rng.choice(len(cells), min(len(cells), 4000), replace=False)]
    for _ in range(6):
        nearest = _nearest(sample, centres)
        centres = np.stack(
            [sample[nearest == p].mean(axis=0) if (nearest == p).any() else centres[p] for p in range(parts)]
        )
    side = max(tissue.shape)
    warp = np.stack([smooth_noise(tissue.shape, side / 9, rng) for _ in range(2)], axis=-1) * (side / 20)
    fine = np.stack([smooth_noise(tissue.shape, 4, rng) for _ in range(2)], axis=-1) * 0.8
    everywhere = np.stack(np.mgrid[: tissue.shape[0], : tissue.shape[1]], axis=-1).astype(np.float32)
    return _nearest((everywhere + warp + fine).reshape(-1, 2), centres).reshape(tissue.shape), centres


def _nearest(points: Plane, centres: Plane) -> NDArray[np.int64]:
    return np.argmin(((points[:, None] - centres[None]) ** 2).sum(axis=-1), axis=1)


def _assign(
    part_of_cell: NDArray[np.int64], centres: Plane, tumour_share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Kind of each part, uint8 (parts,): carcinoma in neighbouring parts, the other kinds in turn over the rest."""
    areas = np.bincount(part_of_cell, minlength=len(centres)) / len(part_of_cell)
    kinds = np.full(len(centres), GLASS, np.uint8)
    if tumour_share > 0:
        start = centres[rng.integers(len(centres))]
        by_distance = np.argsort(((centres - start) ** 2).sum(axis=1))
        covered = np.cumsum(areas[by_distance])
        count = min(1 + int(np.argmin(np.abs(covered - tumour_share))), len(centres) - len(KINDS) + 1)
        kinds[by_distance[:count]] = KINDS.index("carcinoma")
    rest = np.flatnonzero(kinds == GLASS)
    order = rng.permutation(rest)
    turn = rng.permutation([KINDS.index(k) for k in KINDS if k != "carcinoma"])
    kinds[order] = turn[np.arange(len(order)) % len(turn)]
    return kinds


def to_geojson(regions: RegionMap, size: tuple[int, int]) -> dict[str, Any]:
    """The regions as a GeoJSON FeatureCollection (RFC 7946 structure, QuPath's properties).

    One Polygon per connected region, in level-0 pixels, x before y, closed rings, holes as inner rings; the kind is in
    ``properties.classification.name``.

    :param size: (width, height) of level 0, pixels.
    """
    features = []
    for index, kind in enumerate(KINDS):
        for rings in _polygons(regions.kinds == index, regions.cell, size):
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": rings},
                    "properties": {
                        "objectType": "annotation",
                        "classification": {"name": kind, "color": list(COLOURS[kind])},
                    },
                }
            )
    return {"type": "FeatureCollection", "features": features}


def _polygons(mask: NDArray[np.bool_], cell: int, size: tuple[int, int]) -> list[list[list[list[int]]]]:
    """Polygons of a coarse mask, each a list of closed rings (outer, then holes) of [x, y]."""
    zoom = 4
    fine = cv2.resize(mask.astype(np.float32), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    contours, tree = cv2.findContours((fine > 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return []
    rings = [_ring(contour, cell / zoom, size) for contour in contours]
    polygons = []
    for i, (_, _, _, parent) in enumerate(tree[0]):
        if parent < 0 and len(rings[i]) >= 4 and cv2.contourArea(contours[i]) >= (2 * zoom) ** 2:
            holes = [rings[j] for j in range(len(rings)) if tree[0][j][3] == i and len(rings[j]) >= 4]
            polygons.append([rings[i], *holes])
    return polygons


def _ring(contour: NDArray[np.int32], scale: float, size: tuple[int, int]) -> list[list[int]]:
    points = cv2.approxPolyDP(contour, 1.0, closed=True).reshape(-1, 2)
    pixels = np.minimum(np.round((points + 0.5) * scale).astype(int), size)
    ring: list[list[int]] = pixels.tolist()
    return [*ring, ring[0]]
