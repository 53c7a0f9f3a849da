"""Coordinate files of CLAM and TRIDENT: the patches of a slide, one HDF5 file per slide.

Both have a dataset ``coords`` (N, 2), level-0 x and y of the top-left corners, with the patch size in its attributes. CLAM:
``patch_size`` in pixels of level ``patch_level``. TRIDENT: ``patch_size`` in pixels at the target resolution, and either
``patch_size_level0`` or the ratio ``level0_magnification / target_magnification``. Files of sgcl have the attributes of both,
and width and height in ``patch_size_level0_xy``, which differ on slides with non-square pixels.
Sources: https://github.com/mahmoodlab/CLAM and https://github.com/mahmoodlab/TRIDENT.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, store
from sgcl_cli.errors import ArtefactError, ConfigError

_MOST_PATCHES = 2**24
_LARGEST = 2**31  # level-0 pixels
_SUFFIX = "_patches"
_COMPOUND = ".ome"  # TRIDENT treats .ome.tif as one extension


@dataclass(frozen=True)
class Coordinates:
    """Positions of the patches of a slide, as read from a coordinate file.

    :ivar corners: int64 (N, 2), x and y of the top-left corners, level-0 pixels, in the order of the file.
    :ivar patch_size: side of a patch in the unit of the file, see the module.
    :ivar sides: (width, height) of a patch in level-0 pixels; None if the file does not record it.
    :ivar level: the level in pixels of which ``patch_size`` is given; None if ``sides`` is known.
    :ivar size: (width, height) of level 0; None if the file does not record it.
    :ivar level_size: (width, height) of ``level``; None if the file does not record it.
    :ivar sha256: hash of the corners and the attributes.
    """

    corners: NDArray[np.int64]
    patch_size: int
    sides: tuple[float, float] | None
    level: int | None
    size: tuple[int, int] | None
    level_size: tuple[int, int] | None
    sha256: str


def find(folder: Path, slide_ids: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Find the coordinate file of each slide.

    :param folder: an output of CLAM, TRIDENT or ``sgcl tile``, or a folder of <slide_id>.h5 or <slide_id>_patches.h5.
    :returns: files by slide id, and the names of files that belong to none of the slides.
    :raises ConfigError: no such folder, no files, several trees of files, two files for one slide, or no file for any slide.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}", "give the folder of coordinates written by CLAM or TRIDENT")
    trees = layout.trees(folder)
    if len(trees) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in trees)
        raise ConfigError(f"{folder} contains coordinate files in several folders: {names}", "give one of them")
    known = {name: slide_id for slide_id in slide_ids for name in (slide_id.removesuffix(_COMPOUND), slide_id)}
    files: dict[str, Path] = {}
    strangers: list[str] = []
    for path in layout.files(trees[0]) if trees else []:
        slide_id = known.get(path.stem, known.get(path.stem.removesuffix(_SUFFIX)))
        if slide_id is None:
            strangers.append(path.name)
        elif slide_id in files:
            raise ConfigError(
                f"{path.parent} has two files for slide {slide_id}: {files[slide_id].name} and {path.name}",
                "remove one",
            )
        else:
            files[slide_id] = path
    if not files:
        found = f"; it has {', '.join(strangers[:3])}" if strangers else ""
        raise ConfigError(
            f"no coordinate file in {folder} is named after one of the slides{found}",
            "name them <slide_id>.h5 or <slide_id>_patches.h5",
        )
    return files, strangers


def read(path: Path) -> Coordinates:
    """Read and check one file.

    :raises ArtefactError: missing, damaged, forged, or not coordinates with a patch size.
    """
    with store.opened(path) as file:
        try:
            data = file.get("coords")
            _check_shape(path, data)
            corners = data[:].astype(np.int64)
            attributes = store.attributes_of(data, path)
            numbers = {name: _numbers(attributes.get(name)) for name in _ATTRIBUTES}
        except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            raise ArtefactError(f"{path.name} cannot be read: {error}", "the file is damaged; make it again") from error
    if len(corners) and (corners.min() < 0 or corners.max() >= _LARGEST):
        raise _foreign(path, f"'coords' reach from {corners.min()} to {corners.max()}")
    return _interpreted(path, corners, numbers)


_ATTRIBUTES = {
    "patch_size": 1,
    "patch_level": 1,
    "level_dim": 2,
    "patch_size_level0": 1,
    "patch_size_level0_xy": 2,
    "level0_magnification": 1,
    "target_magnification": 1,
    "level0_width": 1,
    "level0_height": 1,
}


def _check_shape(path: Path, data: object) -> None:
    if not isinstance(data, h5py.Dataset):
        raise _foreign(path, "it has no dataset 'coords'")
    if data.dtype.kind not in "iu" or data.ndim != 2 or data.shape[1] != 2:
        raise _foreign(path, f"'coords' is {data.dtype} {data.shape}, not whole numbers (N, 2)")
    if len(data) > _MOST_PATCHES:
        raise _foreign(path, f"it claims {len(data)} patches")


def _interpreted(path: Path, corners: NDArray[np.int64], numbers: dict[str, tuple[float, ...] | None]) -> Coordinates:
    given = {name: value for name, value in numbers.items() if value is not None}
    for name, value in given.items():
        least = 0.0 if name == "patch_level" else 1e-9
        if len(value) != _ATTRIBUTES[name] or not all(math.isfinite(v) and least <= v < _LARGEST for v in value):
            raise _foreign(path, f"its attribute '{name}' is {', '.join(map(str, value))}")
    if "patch_size" not in given:
        raise _foreign(path, "'coords' has no attribute 'patch_size'")
    patch_size = given["patch_size"][0]
    sides, level = None, None
    if "patch_size_level0_xy" in given:
        sides = given["patch_size_level0_xy"]
    elif "patch_size_level0" in given:
        sides = given["patch_size_level0"] * 2
    elif "level0_magnification" in given and "target_magnification" in given:
        sides = (patch_size * given["level0_magnification"][0] / given["target_magnification"][0],) * 2
    elif "patch_level" in given:
        level = int(given["patch_level"][0])
    else:
        raise _foreign(path, "it has neither 'patch_size_level0' (TRIDENT) nor 'patch_level' (CLAM)")
    size = (*given.get("level0_width", ()), *given.get("level0_height", ()))
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(corners, dtype="<i8").tobytes())
    return Coordinates(
        corners=corners,
        patch_size=round(patch_size),
        sides=None if sides is None else (sides[0], sides[1]),
        level=level,
        size=(int(size[0]), int(size[1])) if len(size) == 2 else None,
        level_size=(int(given["level_dim"][0]), int(given["level_dim"][1]))
        if level is not None and "level_dim" in given
        else None,
        sha256=digest.hexdigest(),
    )


def _numbers(value: object) -> tuple[float, ...] | None:
    """An attribute as numbers; None if it is absent.

    :raises ValueError: not numeric.
    """
    return None if value is None else tuple(np.asarray(value).astype(np.float64).ravel().tolist())


def _foreign(path: Path, why: str) -> ArtefactError:
    return ArtefactError(
        f"{path.name} is not a coordinate file of CLAM or TRIDENT: {why}",
        "give CLAM's patches/<slide_id>.h5 or TRIDENT's <slide_id>_patches.h5",
    )
