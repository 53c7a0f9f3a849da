"""Smooth random fields over a slide, evaluated block by block or point by point: no full plane is ever held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """A function of the level-0 position, given by samples at the centres of squares of ``step`` pixels.

    :param grid: float32 (rows, columns); beyond its border the nearest sample holds.
    :param cubic: cubic interpolation between the samples, else linear.
    """

    grid: Plane
    step: int
    cubic: bool = False


class Place(Protocol):
    """Where fields are evaluated: every member has one value per position, in shapes that broadcast together."""

    @property
    def x(self) -> Plane:
        """Level-0 pixels from the left."""

    @property
    def y(self) -> Plane:
        """Level-0 pixels from the top."""

    def of(self, field: Field) -> Plane:
        """Values of ``field`` here, float32."""


@dataclass(frozen=True)
class Block:
    """Every ``every``-th pixel of [x0, x1) x [y0, y1) of level 0, which may reach beyond the slide."""

    x0: int
    y0: int
    x1: int
    y1: int
    every: int = 1

    @property
    def x(self) -> Plane:
        """Level-0 pixels from the left, shape (1, columns)."""
        return np.arange(self.x0, self.x1, self.every, dtype=np.float32)[None]

    @property
    def y(self) -> Plane:
        """Level-0 pixels from the top, shape (rows, 1)."""
        return np.arange(self.y0, self.y1, self.every, dtype=np.float32)[:, None]

    def of(self, field: Field) -> Plane:
        """Values of ``field``, shape (rows, columns); a pixel's value is the same through every block that holds it."""
        rows, top = _samples(self.y0, self.y1, field.step)
        columns, left = _samples(self.x0, self.x1, field.step)
        grid = field.grid.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
        size = len(columns) * field.step, len(rows) * field.step
        zoomed = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC if field.cubic else cv2.INTER_LINEAR)
        bottom, right = top + self.y1 - self.y0, left + self.x1 - self.x0
        return np.ascontiguousarray(zoomed[top : bottom : self.every, left : right : self.every])


def _samples(start: int, stop: int, step: int) -> tuple[NDArray[np.int64], int]:
    """Indices of the samples that pixels [start, stop) of one axis need, and the pixels before ``start`` they cover."""
    first, last = start // step - 2, (stop - 1) // step + 3
    return np.arange(first, last), start - first * step


@dataclass(frozen=True)
class Points:
    """Single pixels; every member has shape (n,). ``x`` and ``y`` are float32 level-0 pixels."""

    x: Plane
    y: Plane

    def of(self, field: Field) -> Plane:
        """Values of ``field``, shape (n,), by linear interpolation."""
        u = np.clip((self.x + 0.5) / field.step - 0.5, 0, field.grid.shape[1] - 1.001)
        v = np.clip((self.y + 0.5) / field.step - 0.5, 0, field.grid.shape[0] - 1.001)
        i, j = v.astype(np.int64), u.astype(np.int64)
        down, right = v - i, u - j
        top = field.grid[i, j] * (1 - right) + field.grid[i, j + 1] * right
        bottom = field.grid[i + 1, j] * (1 - right) + field.grid[i + 1, j + 1] * right
        values: Plane = (top * (1 - down) + bottom * down).astype(np.float32)
        return values

    def moved(self, dx: float, dy: float) -> Points:
        """The points shifted by (dx, dy) pixels."""
        return Points(self.x + np.float32(dx), self.y + np.float32(dy))


def white_noise(shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Independent normal numbers, float32 ``shape``, scaled so that interpolating between them leaves unit variance."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(1.3)


def smooth_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> Plane:
    """Noise (mean 0, about unit variance) with a correlation length of ``scale`` samples; float32 ``shape``."""
    grid = white_noise((int(shape[0] / scale) + 2, int(shape[1] / scale) + 2), rng)
    zoomed = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(zoomed[: shape[0], : shape[1]])


def smooth_field(size: tuple[int, int], scale: float, rng: np.random.Generator) -> Field:
    """:func:`smooth_noise` over a slide of ``size`` (width, height) pixels; ``scale`` in pixels, at least 1."""
    if scale < 12:
        step = max(1, round(scale))
        return Field(white_noise((size[1] // step + 1, size[0] // step + 1), rng), step, cubic=True)
    step = 4 if scale < 48 else 16
    return Field(smooth_noise((size[1] // step + 1, size[0] // step + 1), scale / step, rng), step)


def ramp(values: Plane, low: float, high: float) -> Plane:
    """Linear step: 0 at or below ``low``, 1 at or above ``high``; same shape as ``values``."""
    return np.clip((values - low) * (1 / (high - low)), 0, 1)
