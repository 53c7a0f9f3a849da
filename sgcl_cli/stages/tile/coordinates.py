"""Patches at coordinates from CLAM or TRIDENT: ``sgcl tile --from-coords``.

Tissue is not detected and there is no lattice: the patches are read in the order and with the field of view of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import coordinates
from sgcl_cli.artefacts.coordinates import Coordinates
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ArtefactError, SlideError
from sgcl_cli.slide.lattice import Geometry, Lattice
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.reader import Slide

FIELD_OF_VIEW = 0.1  # largest relative difference from --patch-size at --mpp, as in embed between patches and encoder
_SQUARE = 0.01  # largest relative difference of a patch's sides in µm
_OVERHANG = 0.5  # level-0 pixels beyond the slide's edge that are tolerated


@dataclass(frozen=True)
class Supplied:
    """The coordinate files of a cohort, by slide id.

    :ivar files: each with the sha256 of its content.
    :ivar refused: errors of slides without a usable file.
    :ivar notes: warnings for the user.
    """

    files: dict[str, tuple[Path, str]] = field(default_factory=dict)
    refused: dict[str, SlideError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """Patches of a coordinate file on their slide.

    :ivar geometry: size and resolution of the patches.
    :ivar lattice: the patches within the slide; not on a lattice.
    :ivar overhanging: number of patches partly outside the slide, which are left out.
    """

    geometry: Geometry
    lattice: Lattice
    overhanging: int


def settle(config: TileConfig, entries: Sequence[Entry]) -> Supplied:
    """Find and check the coordinate files of all slides.

    :raises ConfigError: the folder does not exist or has no file of these slides.
    """
    if config.from_coords is None:
        return Supplied()
    folder = Path(config.from_coords)
    paths, strangers = coordinates.find(folder, [entry.slide_id for entry in entries])
    files: dict[str, tuple[Path, str]] = {}
    refused: dict[str, SlideError] = {}
    for entry in entries:
        path = paths.get(entry.slide_id)
        if path is None:
            refused[entry.slide_id] = SlideError(
                f"there is no coordinate file for {entry.slide_id} in {folder.name}",
                "add it as <slide_id>.h5 or <slide_id>_patches.h5, or leave the slide out",
            )
            continue
        try:
            files[entry.slide_id] = path, coordinates.read(path).sha256
        except ArtefactError as error:
            refused[entry.slide_id] = _of_slide(error, path)
    notes = (
        [f"--from-coords: {len(strangers)} files belong to no slide, the first is {strangers[0]}"] if strangers else []
    )
    return Supplied(files, refused, tuple(notes))


def placed(path: Path, sha256: str, slide: Slide, config: TileConfig) -> Placed:
    """Read a slide's coordinate file and check it against the slide.

    :param sha256: of its content when it was found.
    :raises SlideError: it has changed, belongs to another slide, or has another field of view than ``--patch-size`` at ``--mpp``.
    """
    try:
        found = coordinates.read(path)
    except ArtefactError as error:
        raise _of_slide(error, path) from error
    if found.sha256 != sha256:
        raise SlideError(f"{path.name} has changed while the cohort was tiled", "run the same command again")
    located = locate(path, found, slide)
    sides, across = located.sides, located.sides[0] * slide.mpps[0]
    mpp = across / config.patch_size
    if abs(mpp / config.mpp - 1) > FIELD_OF_VIEW:
        raise SlideError(
            f"the patches of {path.name} are {sides[0]:g} level-0 pixels wide, which are {across:.4g} µm; "
            f"{config.patch_size} pixels at {config.mpp:g} µm/px are {config.patch_size * config.mpp:g}",
            f"use --patch-size {found.patch_size} --mpp {across / found.patch_size:.4g}",
        )
    count = len(located.corners)
    lattice = Lattice(located.corners, np.full((count, 2), -1, np.int32), np.full(count, np.nan, np.float32))
    return Placed(Geometry(config.patch_size, 0, mpp, *slide.mpps), lattice, located.overhanging)


@dataclass(frozen=True)
class Located:
    """Positions of the patches of a coordinate file.

    :ivar corners: int64 (N, 2), x and y, level-0 pixels.
    :ivar sides: (width, height) of a patch, level-0 pixels.
    :ivar overhanging: number of patches partly outside the slide, which are left out.
    """

    corners: NDArray[np.int64]
    sides: tuple[float, float]
    overhanging: int


def locate(path: Path, found: Coordinates, slide: Slide) -> Located:
    """Check the content of coordinate file ``path`` against its slide.

    :raises SlideError: it belongs to another slide, or its patches are not square in µm.
    """
    _check_slide(path, found, slide)
    sides = _sides(found, slide)
    across, down = sides[0] * slide.mpps[0], sides[1] * slide.mpps[1]
    if abs(across / down - 1) > _SQUARE:
        raise SlideError(
            f"the patches of {path.name} are {across:.4g} µm wide and {down:.4g} µm high: {slide.path.name} has oblong pixels",
            "tile it without --from-coords, or give one resolution as column mpp of --list if the record is wrong",
        )
    overhangs = np.any(found.corners + sides > np.array(slide.size) + _OVERHANG, axis=1)
    corners = found.corners[~overhangs]
    return Located(corners, sides, len(found.corners) - len(corners))


def _of_slide(error: ArtefactError, path: Path) -> SlideError:
    """The error of a coordinate file as an error of its slide, which does not stop the run."""
    return SlideError(error.message.replace(str(path), path.name), error.hint)


def _check_slide(path: Path, found: Coordinates, slide: Slide) -> None:
    if found.level is not None and found.level >= len(slide.downsamples):
        raise SlideError(
            f"{path.name} has sizes in pixels of level {found.level}, {slide.path.name} has {len(slide.downsamples)} levels",
            "the file belongs to another slide",
        )
    if found.level in slide.unusable:
        raise SlideError(
            f"{path.name} has sizes in pixels of level {found.level} of {slide.path.name}, "
            f"which is not a reduced copy of level 0: {slide.unusable[found.level]}",
            "choose the patches at another level",
        )
    claims = [(found.size, slide.size)]
    claims += [] if found.level is None else [(found.level_size, slide.level_sizes[found.level])]
    for claimed, size in claims:
        if claimed is not None and claimed != size:
            raise SlideError(
                f"{path.name} was made for {claimed[0]} x {claimed[1]} pixels, {slide.path.name} has {size[0]} x {size[1]}",
                "the file belongs to another slide",
            )
    outside = int((found.corners >= np.array(slide.size)).any(axis=1).sum())
    if outside:
        raise SlideError(
            f"{outside} of {len(found.corners)} patches of {path.name} lie outside {slide.path.name}, "
            f"which has {slide.size[0]} x {slide.size[1]} pixels",
            "the file belongs to another slide, or its coordinates are not of level 0",
        )


def _sides(found: Coordinates, slide: Slide) -> tuple[float, float]:
    """Width and height of a patch, level-0 pixels."""
    if found.sides is not None:
        return found.sides
    assert found.level is not None
    side = found.patch_size * slide.downsamples[found.level]
    return side, side
