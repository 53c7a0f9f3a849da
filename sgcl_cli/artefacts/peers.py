"""Attributes of ``coords`` by which CLAM and TRIDENT read files of sgcl; an attribute that would be wrong is left out.

CLAM reads ``patch_size`` pixels of level ``patch_level``; TRIDENT reads ``patch_size_level0`` level-0 pixels and resizes them to
``patch_size`` pixels. Both use integers, assume square pixels, and describe the resolution of a slide by a nominal
magnification. The exact width and height of a patch in level-0 pixels are in the additional attribute ``EXACT``.
Sources: https://github.com/mahmoodlab/CLAM and https://github.com/mahmoodlab/TRIDENT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, reading, store

EXACT = "patch_size_level0_xy"
_LEVEL_0 = "patch_size_level0"
_LARGEST = 2**31  # level-0 pixels
_SIDE = reading.number(1e-3, _LARGEST)
_GEOMETRY = {
    **dict.fromkeys(("patch_size", _LEVEL_0, "mpp_level0", "mpp_target", "mpp_actual"), _SIDE),
    **dict.fromkeys((EXACT, "mpp_level0_xy"), reading.listed(_SIDE, count=2)),
    **dict.fromkeys(("level0_width", "level0_height"), reading.number(1, _LARGEST)),
}
_MEETS = 0.5  # largest deviation of a patch in pixels of a level from the exact side, level-0 pixels


@dataclass(frozen=True)
class Level:
    """A level of a slide.

    :ivar number: 0 is the finest.
    :ivar size: (width, height), pixels of the level.
    :ivar downsample: level-0 pixels per pixel.
    """

    number: int
    size: tuple[int, int]
    downsample: float


def square(side: float, patch_size: int, mpp: float, level: Level) -> dict[str, Any]:
    """Attributes of square patches, for CLAM and TRIDENT.

    CLAM's are included if the level has the resolution of the patches, to within half a level-0 pixel per patch.

    :param side: of a patch, level-0 pixels.
    :param patch_size: side of a patch in pixels at the target resolution.
    :param mpp: of level 0, µm per pixel.
    :param level: the level from which the patches are read.
    """
    attributes = trident(side, patch_size, mpp)
    return attributes | (_clam(level) if abs(patch_size * level.downsample - side) <= _MEETS else {})


def of_level(side: float, mpp: float, level: Level) -> dict[str, Any]:
    """Attributes of square patches with ``patch_size`` in pixels of a level, as CLAM reads it, rounded to an integer.

    :param side: of a patch, level-0 pixels.
    :param mpp: of level 0, µm per pixel.
    :param level: the level that CLAM reads.
    """
    return trident(side, max(1, round(side / level.downsample)), mpp) | _clam(level)


def trident(side: float, patch_size: int, mpp: float) -> dict[str, Any]:
    """Attributes for TRIDENT, which computes the field of view from the ratio of the magnifications, written to be exact.

    :param side: of a patch, level-0 pixels.
    :param patch_size: side of a patch in pixels at the target resolution.
    :param mpp: of level 0, µm per pixel.
    """
    nominal = layout.magnification(mpp)
    return {
        "patch_size": patch_size,
        _LEVEL_0: round(side),
        EXACT: np.array([side, side]),
        "level0_magnification": nominal,
        "target_magnification": nominal * patch_size / side,
    }


def read_geometry(coords: h5py.Dataset, path: Path) -> dict[str, Any]:
    """The attributes of ``coords`` as plain values: numbers, strings and lists.

    :raises ArtefactError: a size or resolution is not a number or out of range.
    """
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in store.attributes_of(coords, path).items()
    }
    return reading.typed(plain, _GEOMETRY, f"{path}: an attribute of 'coords'", reading.DAMAGED)


def sides(geometry: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Width and height of a patch in level-0 pixels, float64 (2,), from attributes of ``coords``; None if absent.

    Files of earlier releases have the exact side in TRIDENT's attribute.
    """
    side = geometry.get(EXACT, geometry.get(_LEVEL_0))
    return None if side is None else np.array(np.broadcast_to(np.asarray(side, np.float64), (2,)))


def whole(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a file of an earlier release with TRIDENT's patch_size_level0 rounded to an integer."""
    side = geometry.get(_LEVEL_0)
    if side is None or isinstance(side, int | np.integer):
        return dict(geometry)
    return {**geometry, _LEVEL_0: round(float(side)), EXACT: geometry.get(EXACT, np.array([side, side], np.float64))}


def _clam(level: Level) -> dict[str, Any]:
    return {
        "patch_level": level.number,
        "downsample": np.array([level.downsample, level.downsample]),
        "level_dim": np.array(level.size),
        "downsampled_level_dim": np.array(level.size),
    }
