"""Patch images of a cohort: the right pixels for each row, and patches that are not those that were embedded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.stages.evaluate.patches import open_patches

SIDE = 32
SLIDES = {"a": (4, 4), "b": (5, 3)}


def cohort_of(files: list[FeatureFile], rows: list[list[int]]) -> Cohort:
    """The given rows of each file, in the order of the files."""
    names = np.repeat([file.slide_id for file in files], [len(some) for some in rows])
    label = np.zeros(len(names), np.int64)
    row = np.concatenate(rows).astype(np.int64)
    return Cohort("patch", ("x", "y"), tuple(files), names, names, label, None, row, "", False, "binary", "")


def features_of(index: PatchIndex, folder: Path, **attributes: Any) -> list[FeatureFile]:
    """Features in ``folder`` that record the patches of an index."""
    folder.mkdir(exist_ok=True)
    return [
        FeatureFile(
            folder / f"{file.slide_id}.h5",
            file.slide_id,
            np.zeros((len(file), 2), np.float32),
            attributes={"patches_id": file.id, "patches_path": f"../tiles/patches/{file.path.name}", **attributes},
        )
        for file in index.files
    ]


@pytest.fixture
def index(tmp_path: Path, write_patches: Callable[..., Path]) -> PatchIndex:
    return PatchIndex.open(write_patches(tmp_path / "tiles", SLIDES, SIDE))


@pytest.mark.parametrize("folder", [None, "tiles"])
def test_every_row_has_the_pixels_of_its_patch(tmp_path: Path, index: PatchIndex, folder: str | None) -> None:
    cohort = cohort_of(features_of(index, tmp_path / "features"), [[3, 0, 9], [14, 1]])
    opened = open_patches(cohort, None if folder is None else str(tmp_path / folder), 16)
    assert opened.size == SIDE and opened.file_of.tolist() == [0, 0, 0, 1, 1]
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    for i, (file, row) in enumerate([(0, 3), (0, 0), (0, 9), (1, 14), (1, 1)]):
        opened.into(i, pixels)
        assert (pixels == simplejpeg.decode_jpeg(index.files[file].read(row))).all()


def test_images_are_found_by_name_and_cropped_at_their_centre(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number, name in enumerate(("x/1.png", "x/2.png", "y/1.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 12, 3), 10 * number, np.uint8)
        pixels[2:10, 2:10] += 100
        Image.fromarray(pixels).save(folder / name)
    attributes = {"patches_id": "with groups", "source_identity": ImageFolder.open(folder, crop=8).id}
    names = ("y/1.png", "x/2.png", "x/1.png")  # another order than that of the folder
    file = FeatureFile(
        tmp_path / "set.h5", "set", np.zeros((3, 2), np.float32), name=np.array(names), attributes=attributes
    )
    for where in (folder, tmp_path):
        opened = open_patches(cohort_of([file], [[0, 2]]), str(where), 8)
        found = np.empty((8, 8, 3), np.uint8)
        for i, value in enumerate((120, 100)):
            opened.into(i, found)
            assert (found == value).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches_id": "changed"}, "the patches of a.h5 are not at ../tiles/patches/a.h5, or have changed"),
        ({"patches_path": "../nowhere/a.h5"}, "are not at ../nowhere/a.h5"),
        ({"patches_path": None, "patches_id": None}, "a.h5 does not record its patches"),
        ({"pixels": "slides"}, "a.h5 was computed directly from a slide"),
    ],
)
def test_patches_that_were_not_embedded_are_refused(
    tmp_path: Path, index: PatchIndex, changes: dict[str, Any], message: str
) -> None:
    files = features_of(index, tmp_path / "features", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        open_patches(cohort_of(files, [[0], [0]]), None, 16)
    assert caught.value.hint


def test_sizes_and_coordinates_are_checked(
    tmp_path: Path, index: PatchIndex, write_patches: Callable[..., Path]
) -> None:
    files = features_of(index, tmp_path / "features")
    cohort = cohort_of(files, [[0], [0]])
    with pytest.raises(ConfigError, match="the patches are 32 pixels, the encoder's input is 33"):
        open_patches(cohort, None, SIDE + 1)
    other = PatchIndex.open(write_patches(tmp_path / "large", {"b": (2, 2)}, 64))
    b = replace(files[1], attributes={"patches_id": other.files[0].id, "patches_path": str(other.files[0].path)})
    with pytest.raises(ConfigError, match="have sizes of 32 and 64 pixels"):
        open_patches(cohort_of([files[0], b], [[0], [0]]), None, 16)
    bare = PatchIndex.open(write_patches(tmp_path / "bare", SLIDES, SIDE, pixels=False), pixels=False)
    with pytest.raises(ConfigError, match="holds only coordinates"):
        open_patches(cohort_of(features_of(bare, tmp_path / "x"), [[0], [0]]), str(tmp_path / "bare"), 16)


def test_a_damaged_patch_is_named(tmp_path: Path, index: PatchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_patches(cohort_of(features_of(index, tmp_path / "features"), [[0], [2]]), None, 16)
    monkeypatch.setattr(type(index.files[0]), "read", lambda file, row: b"no JPEG")
    with pytest.raises(ArtefactError, match=r"patch 2 of .*b\.h5"):
        opened.into(1, np.empty((SIDE, SIDE, 3), np.uint8))
