"""Attributes of ``coords`` by which CLAM and TRIDENT read files of ours: right, or left out.

CLAM reads ``patch_size`` pixels of level ``patch_level``; TRIDENT reads ``patch_size_level0`` level-0 pixels and shows them in
``patch_size`` pixels. Both count in whole pixels, take the slide's pixels for square, and know its resolution by a nominal
magnification. The exact field of view, width and height in level-0 pixels, stands in an attribute of our own, ``EXACT``.
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
_MEETS = 0.5  # level-0 pixels by which a patch of whole level pixels may differ


@dataclass(frozen=True)
class Level:
    """A level of a slide: its number, its (width, height) in pixels, and level-0 pixels per pixel."""

    number: int
    size: tuple[int, int]
    downsample: float


def square(side: float, patch_size: int, mpp: float, level: Level) -> dict[str, Any]:
    """Attributes of square patches, for both peers.

    CLAM's are there where a level has the patches' resolution, to within half a level-0 pixel over a patch.

    :param side: of a patch, level-0 pixels.
    :param patch_size: its side in pixels at the target.
    :param mpp: of level 0, um per pixel.
    :param level: that resolves the patches.
    """
    attributes = trident(side, patch_size, mpp)
    return attributes | (_clam(level) if abs(patch_size * level.downsample - side) <= _MEETS else {})


def of_level(side: float, mpp: float, level: Level) -> dict[str, Any]:
    """Attributes of square patches in pixels of a level, which CLAM always reads: ``patch_size`` is the nearest whole number.

    :param side: of a patch, level-0 pixels.
    :param mpp: of level 0, um per pixel.
    """
    return trident(side, max(1, round(side / level.downsample)), mpp) | _clam(level)


def trident(side: float, patch_size: int, mpp: float) -> dict[str, Any]:
    """TRIDENT takes the field of view from the ratio of magnifications, so the target's is written such that this is exact."""
    nominal = layout.magnification(mpp)
    return {
        "patch_size": patch_size,
        _LEVEL_0: round(side),
        EXACT: np.array([side, side]),
        "level0_magnification": nominal,
        "target_magnification": nominal * patch_size / side,
    }


def read_geometry(coords: h5py.Dataset, path: Path) -> dict[str, Any]:
    """The attributes of ``coords`` as plain values: numbers, texts and lists.

    :raises ArtefactError: a size or resolution among them is not a number of its range.
    """
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in store.attributes_of(coords, path).items()
    }
    return reading.typed(plain, _GEOMETRY, f"{path}: an attribute of 'coords'", reading.DAMAGED)


def sides(geometry: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Width and height of a patch in level-0 pixels, float64 (2,), from attributes of ``coords``; None where they are silent.

    Files of before this attribute was ours alone have the exact side in TRIDENT's.
    """
    side = geometry.get(EXACT, geometry.get(_LEVEL_0))
    return None if side is None else np.array(np.broadcast_to(np.asarray(side, np.float64), (2,)))


def whole(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in which TRIDENT finds a whole number of level-0 pixels, made from those of an older file."""
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
