"""Patches that a peer has chosen, on their slide: ``sgcl tile --from-coords``.

No tissue is looked for and there is no lattice: these patches are read, in the peer's order, at the peer's field of view.
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

FIELD_OF_VIEW = 0.1  # share by which it may differ from --patch-size at --mpp, as embed takes it of patches and encoder
_SQUARE = 0.01  # share by which a patch's sides may differ in um
_OVERHANG = 0.5  # level-0 pixels


@dataclass(frozen=True)
class Supplied:
    """The coordinate files of a cohort, by slide id.

    :ivar files: with the sha256 of what they tell.
    :ivar refused: why a slide has none that can be used.
    :ivar notes: what the user should know.
    """

    files: dict[str, tuple[Path, str]] = field(default_factory=dict)
    refused: dict[str, SlideError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A peer's patches on their slide.

    :ivar overhanging: how many lie partly outside the slide and are left out.
    """

    geometry: Geometry
    lattice: Lattice
    overhanging: int


def settle(config: TileConfig, entries: Sequence[Entry]) -> Supplied:
    """Find and check the files of all slides.

    :raises ConfigError: the folder is of no use.
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
                "make one, or leave the slide out; they are called <slide_id>.h5 or <slide_id>_patches.h5",
            )
            continue
        try:
            files[entry.slide_id] = path, coordinates.read(path).sha256
        except ArtefactError as error:
            refused[entry.slide_id] = _of_slide(error, path)
    notes = [f"--from-coords: {len(strangers)} files belong to no slide, first {strangers[0]}"] if strangers else []
    return Supplied(files, refused, tuple(notes))


def placed(path: Path, sha256: str, slide: Slide, config: TileConfig) -> Placed:
    """Read a slide's coordinate file and check it against the slide.

    :param sha256: of what it told when it was found.
    :raises SlideError: it has changed, belongs to another slide, or its patches have another field of view than asked for.
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
            f"the patches of {path.name} are {sides[0]:g} level-0 pixels wide, which are {across:.4g} um; "
            f"{config.patch_size} pixels at {config.mpp:g} um/px are {config.patch_size * config.mpp:g}",
            f"use --patch-size {found.patch_size} --mpp {across / found.patch_size:.4g}",
        )
    count = len(located.corners)
    lattice = Lattice(located.corners, np.full((count, 2), -1, np.int32), np.full(count, np.nan, np.float32))
    return Placed(Geometry(config.patch_size, 0, mpp, *slide.mpps), lattice, located.overhanging)


@dataclass(frozen=True)
class Located:
    """Where a peer's patches lie: ``corners`` int64 (N, 2) and ``sides`` (width, height) in level-0 pixels.

    :ivar overhanging: how many lie partly outside the slide and are left out.
    """

    corners: NDArray[np.int64]
    sides: tuple[float, float]
    overhanging: int


def locate(path: Path, found: Coordinates, slide: Slide) -> Located:
    """Check what a peer's file ``path`` tells against its slide.

    :raises SlideError: it belongs to another slide, or its patches are not square in um.
    """
    _check_slide(path, found, slide)
    sides = _sides(found, slide)
    across, down = sides[0] * slide.mpps[0], sides[1] * slide.mpps[1]
    if abs(across / down - 1) > _SQUARE:
        raise SlideError(
            f"the patches of {path.name} are {across:.4g} um wide and {down:.4g} um high: {slide.path.name} has oblong pixels",
            "tile it without --from-coords, or give one resolution as column mpp of --list if the record is wrong",
        )
    overhangs = np.any(found.corners + sides > np.array(slide.size) + _OVERHANG, axis=1)
    corners = found.corners[~overhangs]
    return Located(corners, sides, len(found.corners) - len(corners))


def _of_slide(error: ArtefactError, path: Path) -> SlideError:
    """A file that is of no use costs its slide, not the run."""
    return SlideError(error.message.replace(str(path), path.name), error.hint)


def _check_slide(path: Path, found: Coordinates, slide: Slide) -> None:
    if found.level is not None and found.level >= len(slide.downsamples):
        raise SlideError(
            f"{path.name} counts in pixels of level {found.level}, {slide.path.name} has {len(slide.downsamples)} levels",
            "the file belongs to another slide",
        )
    if found.level in slide.unusable:
        raise SlideError(
            f"{path.name} counts in pixels of level {found.level} of {slide.path.name}, which is no reduced copy of level 0: "
            f"{slide.unusable[found.level]}",
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
