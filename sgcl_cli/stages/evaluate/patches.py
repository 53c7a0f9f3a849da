"""Patch images of a patch-level cohort: for every row the patch, or image file, from which its features were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.engine.loader import decode_jpeg
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.probe.data.cohort import Cohort

_REMEDY = "give the folder of the embedded patches with --patches DIR, or embed again"


@dataclass(frozen=True)
class CohortPatches:
    """A source of pixels for the loader: patch i belongs to row i of the cohort.

    :ivar size: side of a patch, pixels.
    :ivar files: files of patches, or folders of images.
    :ivar file_of: int64 (n,), index into ``files``.
    :ivar row: int64 (n,), index of the patch within its file.
    """

    size: int
    files: Sequence[PatchFile | ImageFolder]
    file_of: NDArray[np.int64]
    row: NDArray[np.int64]

    def into(self, i: int, pixels: NDArray[np.uint8]) -> None:
        """Decode patch i into ``pixels``, uint8 (size, size, 3), contiguous.

        :raises ArtefactError: the patch cannot be read.
        """
        file, row = self.files[self.file_of[i]], int(self.row[i])
        if isinstance(file, ImageFolder):
            pixels[...] = file.read(row)
        else:
            decode_jpeg(file.read(row), f"patch {row} of {file.path}", self.size, into=pixels)


def open_patches(cohort: Cohort, folder: str | None, input_size: int) -> CohortPatches:
    """Find the patch of every row.

    :param folder: the folder of the patches; None for the one recorded in the features.
    :param input_size: input size of the encoder, pixels; image files are cropped to it at their centre.
    :raises ConfigError: patches are not found, are not those that were embedded, hold no pixels, differ in size, or are smaller
        than ``input_size``.
    """
    assert cohort.row is not None
    found = [_found(file, folder, input_size) for file in cohort.files]
    sizes = {_size(file) for file in found}
    if len(sizes) > 1:
        raise ConfigError(
            f"--finetune: the patches have sizes of {' and '.join(map(str, sorted(sizes)))} pixels",
            "embed patches of one size",
        )
    size = sizes.pop()
    if size < input_size:
        raise ConfigError(
            f"--finetune: the patches are {size} pixels, the encoder's input is {input_size}",
            f"tile with --patch-size {input_size} or more",
        )
    file_of = np.concatenate([[0], np.cumsum(cohort.slide_id[1:] != cohort.slide_id[:-1])]).astype(np.int64)
    rows = cohort.row.copy()
    for number, (file, opened) in enumerate(zip(cohort.files, found, strict=True)):
        if isinstance(opened, ImageFolder):
            assert file.name is not None
            place = {name: at for at, name in enumerate(opened.names)}
            rows[file_of == number] = [place[file.name[row]] for row in cohort.row[file_of == number].tolist()]
    return CohortPatches(size, found, file_of, rows)


def _size(file: PatchFile | ImageFolder) -> int:
    return file.crop if isinstance(file, ImageFolder) else int(file.config["patch_size"])


def _found(file: FeatureFile, folder: str | None, input_size: int) -> PatchFile | ImageFolder:
    """The patches or images that a file of features was computed from, found by the id recorded in it."""
    attributes = file.attributes or {}
    wanted, recorded = attributes.get("patches_id"), attributes.get("patches_path")
    if file.name is not None:
        wanted = attributes.get("source_identity", wanted)
    if wanted is None:
        raise ConfigError(
            f"--finetune needs patch images, and {file.path.name} does not record its patches",
            "embed the patches with sgcl embed",
        )
    if attributes.get("pixels") == "slides":
        raise ConfigError(
            f"--finetune needs patch images, and {file.path.name} was computed directly from a slide",
            "run sgcl tile without --coords-only, and embed that",
        )
    for path in _candidates(file, folder, recorded):
        opened = _images(path, input_size) if file.name is not None else _patches(path)
        if opened is None or opened.id != wanted:
            continue
        if isinstance(opened, PatchFile) and not opened.has_pixels:
            raise ConfigError(f"--finetune needs patch images, and {path} holds only coordinates", _REMEDY)
        return opened
    where = f"in {folder}" if folder is not None else f"at {recorded}"
    raise ConfigError(f"--finetune: the patches of {file.path.name} are not {where}, or have changed", _REMEDY)


def _candidates(file: FeatureFile, folder: str | None, recorded: object) -> list[Path]:
    if folder is None:
        return [] if recorded is None else [file.path.parent / str(recorded)]
    if file.name is not None:
        return [Path(folder), Path(folder) / file.slide_id]
    trees = layout.trees(Path(folder)) if Path(folder).is_dir() else []
    return [path for tree in trees for path in layout.files(tree) if layout.slide_id(path) == file.slide_id]


def _patches(path: Path) -> PatchFile | None:
    try:
        return PatchFile.open(path) if path.is_file() else None
    except ArtefactError:
        return None


def _images(path: Path, input_size: int) -> ImageFolder | None:
    return ImageFolder.open(path, crop=input_size) if ImageFolder.is_one(path) else None
