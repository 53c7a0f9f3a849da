"""Background pictures of heatmaps: the thumbnail written by ``sgcl tile``, or one read from the slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.errors import ArtefactError, ConfigError, SlideError
from sgcl_cli.report.attention import PlacedPatches
from sgcl_cli.slide.open.discover import discover
from sgcl_cli.slide.open.reader import Slide

_MOST_PIXELS = 2**26  # of a thumbnail that is decoded


def patches_in(folder: str) -> dict[str, list[Path]]:
    """Files of patches in a folder, by slide id; empty if the folder does not exist."""
    found: dict[str, list[Path]] = {}
    for tree in layout.trees(Path(folder)) if Path(folder).is_dir() else []:
        for path in layout.files(tree):
            found.setdefault(layout.slide_id(path), []).append(path)
    return found


def patches_of(file: FeatureFile, listed: Mapping[str, Sequence[Path]] | None) -> PatchFile | None:
    """The patches that were embedded, identified by the recorded id and their number; None where they are not found.

    :param listed: files of patches by slide id; None for the path recorded in the features.
    """
    attributes = file.attributes or {}
    if listed is None:
        recorded = attributes.get("patches_path")
        candidates: Sequence[Path] = [] if recorded is None else [file.path.parent / str(recorded)]
    else:
        candidates = listed.get(file.slide_id, [])
    for path in candidates:
        if not path.is_file():
            continue
        try:
            found = PatchFile.open(path)
        except ArtefactError:
            continue
        if found.id == attributes.get("patches_id") and len(found) == len(file):
            return found
    return None


def on_thumbnail(patches: PatchFile) -> PlacedPatches | None:
    """Patches on the thumbnail written by ``sgcl tile``; None where no readable thumbnail exists."""
    path = layout.thumbnail(patches.path)
    size = [patches.geometry.get(f"level0_{side}") for side in ("width", "height")]
    if path is None or None in size:
        return None
    pixels = decoded(path.read_bytes())
    if pixels is None:
        return None
    scale = (float(size[0]) / pixels.shape[1], float(size[1]) / pixels.shape[0])  # type: ignore[arg-type]
    return PlacedPatches(pixels, patches.coords, np.asarray(patches.sides, np.float64), scale)


def slides_in(folder: str) -> dict[str, Path]:
    """The slides of a folder, by id.

    :raises ConfigError: the folder does not exist, or holds no slides.
    """
    found = discover([Path(folder)], None, "stem", lambda paths: [None] * len(paths)).entries
    return {entry.slide_id: entry.path for entry in found}


def on_slide(file: FeatureFile, slides: Mapping[str, Path]) -> PlacedPatches | None:
    """Patches on a thumbnail read from the slide.

    None where the slide is not in ``slides`` or cannot be read, or coordinates or sizes of patches are unknown.
    """
    path, sides = slides.get(file.slide_id), sides_of(file)
    if path is None or sides is None or file.coords is None:
        return None
    try:
        with Slide(path, default_mpp=1.0) as opened:
            thumbnail = opened.thumbnail()
    except SlideError:
        return None
    return PlacedPatches(thumbnail.pixels, file.coords, sides, thumbnail.scale)


def sides_of(file: FeatureFile) -> NDArray[np.float64] | None:
    """Width and height of a patch, level-0 pixels, (2,): as recorded, else the commonest step between neighbours in a row.

    CLAM's feature files record coordinates only. None where coordinates are unknown, or no two patches share a row.
    """
    for name in ("patch_size_level0_xy", "patch_size_level0"):
        recorded = np.asarray((file.geometry or {}).get(name))
        if recorded.dtype.kind in "iuf" and recorded.size in (1, 2) and (recorded > 0).all():
            return np.broadcast_to(recorded.astype(np.float64).ravel(), (2,)).copy()
    if file.coords is None:
        return None
    x, y = file.coords[np.lexsort((file.coords[:, 0], file.coords[:, 1]))].T
    steps = np.diff(x)[(np.diff(y) == 0) & (np.diff(x) > 0)]
    if not len(steps):
        return None
    values, counts = np.unique(steps, return_counts=True)
    return np.full(2, float(values[counts.argmax()]))


def decoded(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG file; None where it cannot be decoded or is too large."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > _MOST_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels


class Places:
    """Finds the patches of slides and a picture to draw them on.

    :param patches: the folder of the patches; None for the path recorded in the features.
    :param slides: the folder of the slides, for those without patches or thumbnail; None for none.
    :raises ConfigError: ``slides`` does not exist or holds no slides.
    """

    def __init__(self, patches: str | None, slides: str | None) -> None:
        self._given = {"patches": patches, "slides": slides}
        self._listed = None if patches is None else patches_in(patches)
        self._slides = {} if slides is None else slides_in(slides)
        self._found: dict[str, PatchFile] = {}
        self._drawn: set[str] = set()

    def of(self, file: FeatureFile) -> PlacedPatches | None:
        """The patches of a slide on a picture of it; None where neither a thumbnail nor the slide is found."""
        patches = patches_of(file, self._listed)
        placed = None
        if patches is not None:
            self._found[file.slide_id] = patches
            placed = on_thumbnail(patches)
        if placed is None:
            placed = on_slide(file, self._slides)
            if placed is not None:
                self._drawn.add(file.slide_id)
        return placed

    @property
    def patches(self) -> Mapping[str, PatchFile]:
        """The patches found so far, by slide."""
        return self._found

    def check(self) -> None:
        """Check, after ``of`` was called for all slides, that the given folders were of use.

        :raises ConfigError: --patches holds no patches of any slide, or --slides none of the slides.
        """
        patches, slides = self._given["patches"], self._given["slides"]
        if patches is not None and not self._found:
            raise ConfigError(
                f"--patches {patches} holds the patches of none of the slides",
                "give the folder of patches from which the features were computed",
            )
        if slides is not None and not self._found and not self._drawn:
            raise ConfigError(
                f"--slides {slides} holds none of the slides, or their features have no coordinates",
                "file names without their suffixes have to be the ids of the slides",
            )
