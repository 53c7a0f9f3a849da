"""Coordinate files of peers: which patches CLAM or TRIDENT chose on a slide, one HDF5 file a slide.

Both have a dataset ``coords`` (N, 2), level-0 x and y of the top-left corners, whose attributes say how large a patch is.
CLAM: ``patch_size`` pixels of level ``patch_level``. TRIDENT: ``patch_size`` pixels at the target, ``patch_size_level0`` at
level 0, or the ratio ``level0_magnification / target_magnification``. Files of ours follow both, and tell width and height in
``patch_size_level0_xy`` where the slide's pixels are oblong.
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
_COMPOUND = ".ome"  # TRIDENT takes .ome.tif for one extension


@dataclass(frozen=True)
class Coordinates:
    """Where patches lie on a slide, as a peer's file tells.

    :ivar corners: int64 (N, 2), x and y of the top-left corners, level-0 pixels, in the file's order.
    :ivar patch_size: side of a patch in the peer's pixels.
    :ivar sides: (width, height) of a patch in level-0 pixels, where the file tells it.
    :ivar level: the level whose pixels ``patch_size`` counts, where ``sides`` is unknown.
    :ivar size: (width, height) of the slide's level 0, where the file tells it.
    :ivar level_size: (width, height) of ``level``, where the file tells it.
    :ivar sha256: of all of this.
    """

    corners: NDArray[np.int64]
    patch_size: int
    sides: tuple[float, float] | None
    level: int | None
    size: tuple[int, int] | None
    level_size: tuple[int, int] | None
    sha256: str


def find(folder: Path, slide_ids: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """The coordinate file of each slide that has one, and the names of files that belong to no slide.

    ``folder`` is an output of CLAM, TRIDENT or ``sgcl tile``, or holds the files itself: <slide_id>.h5 or <slide_id>_patches.h5.

    :raises ConfigError: no such folder, no files, several trees of files, two files of one slide, or none of any slide.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}", "give the folder that CLAM or TRIDENT wrote its coordinates to")
    trees = layout.trees(folder)
    if len(trees) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in trees)
        raise ConfigError(f"{folder} holds coordinate files more than once: {names}", "give one of these folders")
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
            f"no coordinate file in {folder} is named by one of the slides{found}",
            "they are called <slide_id>.h5 or <slide_id>_patches.h5",
        )
    return files, strangers


def read(path: Path) -> Coordinates:
    """Read and check one file.

    :raises ArtefactError: missing, damaged, deceitful, or not coordinates with the size of a patch.
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
        raise _foreign(path, "it tells neither 'patch_size_level0' (TRIDENT) nor 'patch_level' (CLAM)")
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
    """An attribute as numbers; None where there is none.

    :raises ValueError: something else.
    """
    return None if value is None else tuple(np.asarray(value).astype(np.float64).ravel().tolist())


def _foreign(path: Path, why: str) -> ArtefactError:
    return ArtefactError(
        f"{path.name} is no coordinate file of CLAM or TRIDENT: {why}",
        "give CLAM's patches/<slide_id>.h5 or TRIDENT's <slide_id>_patches.h5",
    )
