"""Nuclei: small pictures of haematoxylin density, and where they are put."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthetic.noise import Plane, Points

ORIENTATIONS = 16
"""Directions in [0, pi) in which each nucleus is drawn."""


@dataclass(frozen=True)
class NucleusKind:
    """The look of one kind of nucleus. Lengths in um, densities in units of haematoxylin.

    :param length: mean long axis; :param width: mean short axis; :param spread: relative standard deviation of both.
    :param density: mean density; :param rim: extra density at the membrane; :param clumps: contrast of the chromatin.
    :param nucleolus: density of a central nucleolus, 0 for none; :param irregularity: relative waviness of the outline.
    """

    length: float
    width: float
    spread: float
    density: float
    rim: float
    clumps: float
    nucleolus: float
    irregularity: float


CARCINOMA = NucleusKind(10.5, 7.8, 0.19, 0.70, 0.45, 0.22, 0.75, 0.09)
LYMPHOCYTE = NucleusKind(6.2, 5.7, 0.09, 1.25, 0.10, 0.30, 0.0, 0.03)
SPINDLE = NucleusKind(14.0, 3.1, 0.22, 1.00, 0.15, 0.20, 0.0, 0.05)


def draw_bank(kind: NucleusKind, mpp: float, rng: np.random.Generator, variants: int = 10) -> Plane:
    """Pictures of nuclei, float32 (ORIENTATIONS, variants, side, side); direction o lies at angle pi o / ORIENTATIONS.

    Angles turn from the x axis (right) towards the y axis (down).
    """
    side = int(np.ceil(kind.length * (1 + 3 * kind.spread) / mpp / 2)) * 2 + 3
    axis = (np.arange(side, dtype=np.float32) - side // 2) * np.float32(mpp)
    x, y = np.meshgrid(axis, axis)
    shape = (ORIENTATIONS, variants)
    long, short = (
        (size / 2 * np.clip(1 + kind.spread * rng.standard_normal(shape), 0.55, 1.6))[..., None, None]
        for size in (kind.length, kind.width)
    )
    angle = (np.pi / ORIENTATIONS * (np.arange(ORIENTATIONS)[:, None] + rng.uniform(-0.5, 0.5, shape)))[..., None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    phi = np.arctan2(v, u)
    outline = 1 + sum(
        kind.irregularity * rng.standard_normal(shape)[..., None, None] / np.sqrt(k) * np.cos(k * phi + phase)
        for k in (2, 3, 5)
        for phase in [rng.uniform(0, 2 * np.pi, shape)[..., None, None]]
    )
    rho = np.hypot(u / long, v / short) / outline
    inside = np.clip((1 - rho) * np.minimum(long, short) / 0.9 + 0.5, 0, 1)
    chromatin = rng.standard_normal((*shape, side, side), dtype=np.float32).reshape(-1, side, side)
    chromatin = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.55 / mpp) for plane in chromatin])
    chromatin = (chromatin / chromatin.std()).reshape(*shape, side, side)
    density = kind.density * (1 + kind.clumps * chromatin) + kind.rim * np.exp(-(((rho - 0.86) / 0.16) ** 2))
    if kind.nucleolus:
        spot = rng.normal(0, 0.18, (2, *shape))[..., None, None] * short
        density = density + kind.nucleolus * np.exp(-((u - spot[0]) ** 2 + (v - spot[1]) ** 2) / (2 * 0.75**2))
    strength = rng.normal(1, 0.12, shape)[..., None, None]
    return np.maximum(inside * density * strength, 0).astype(np.float32)


def scatter(size: tuple[int, int], spacing: float, jitter: float, rng: np.random.Generator) -> Plane:
    """Points on a jittered hexagonal grid: evenly spread, few too close.

    :param size: (width, height), pixels; :param spacing: pixels; :param jitter: standard deviation / spacing.
    :return: float32 (points, 2) as (x, y), whole numbers within ``size``.
    """
    width, height = size
    pitch = spacing * np.sqrt(3) / 2
    row, column = np.mgrid[: int(height / pitch) + 1, : int(width / spacing) + 1]
    points = np.stack([(column + 0.5 * (row % 2)) * spacing, row * pitch], axis=-1).reshape(-1, 2)
    points = np.floor(points + rng.normal(0, jitter * spacing, points.shape))
    return points[((points >= 0) & (points < [width, height])).all(axis=1)].astype(np.float32)


def stamp(canvas: Plane, points: Points, angles: NDArray[np.floating], bank: Plane, rng: np.random.Generator) -> None:
    """Lay one picture of ``bank`` on ``canvas`` at each point, in place; the darker wins, what juts out is cut.

    :param angles: (n,), radians from the x axis towards the y axis.
    """
    side = bank.shape[-1]
    directions = np.round(angles / (np.pi / ORIENTATIONS)).astype(np.int64) % ORIENTATIONS
    variants = rng.integers(bank.shape[1], size=len(directions))
    corners = np.stack([points.x, points.y], axis=-1).astype(np.int64) - side // 2
    for (x, y), direction, variant in zip(corners.tolist(), directions, variants, strict=True):
        left, top = max(-x, 0), max(-y, 0)
        target = canvas[y + top : y + side, x + left : x + side]
        picture = bank[direction, variant, top : top + target.shape[0], left : left + target.shape[1]]
        np.maximum(target, picture, out=target)
