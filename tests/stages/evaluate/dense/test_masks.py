"""Masks: the class of each pixel of a patch, the slides they belong to, and masks that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.slide.annotations.outlines import Raster
from sgcl_cli.stages.evaluate.dense.masks import Masked
from tests.stages.evaluate.dense.made import SIDE, masks_of, write_slide


class Placed:
    """Two patches of 4 level-0 pixels, one of which hangs over the right edge of the mask."""

    slide_id = "s"
    sides = np.array([4.0, 4.0])
    coords = np.array([[1, 0], [4, 2]])


@pytest.fixture
def placed() -> PatchFile:
    return Placed()  # type: ignore[return-value]


VALUES = np.array([[1, 1, 2, 2, 2, 9], [1, 1, 2, 2, 2, 9], [1, 2, 2, 2, 1, 1], [1, 2, 2, 2, 1, 1]], np.uint8)


def test_a_pixel_has_the_class_of_the_mask_at_its_centre(placed: PatchFile) -> None:
    slide = Masked(0, placed, "p", "p", Raster(VALUES, (1.0, 1.0), {1: "b", 2: "a"}))
    assert slide.truth(0, 4, ("a", "b")).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert slide.truth(1, 4, ("a", "b")).tolist() == [[1, 1, -1, -1], [1, 1, -1, -1], [-1] * 4, [-1] * 4]
    coarse = slide.truth(0, 2, ("a", "b"))
    assert coarse.tolist() == [[0, 0], [0, 1]], "centres at 1 and 3 level-0 pixels from the corner"


def test_values_without_a_class_and_the_corner_of_the_mask(placed: PatchFile) -> None:
    slide = Masked(0, placed, "p", "p", Raster(VALUES, (1.0, 1.0), {2: "a"}, corner=(2.0, 1.0)))
    truth = slide.truth(0, 4, ("a",))
    assert truth.tolist() == [[-1] * 4, [-1, -1, -1, 0], [-1, -1, -1, 0], [-1, -1, 0, 0]]


def test_patients_and_sites_stay_together(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,patient_id,site\na,p,north\nb,p,north\nc,q,south\n")
    masks = masks_of(data, tmp_path, labels=str(table))
    assert masks.group.tolist() == ["p", "p", "q"] and masks.left_out == "patients"
    masks = masks_of(data, tmp_path, labels=str(table), cv="site")
    assert masks.group.tolist() == ["north", "north", "south"] and masks.left_out == "sites"
    assert masks.patient.tolist() == ["p", "p", "q"]
    for rows, why in (("a,p,north\nb,p,south\nc,q,south", "'p' has two sites"), ("a,p,north", "'b' has no site")):
        table.write_text(f"slide_id,patient_id,site\n{rows}\n")
        with pytest.raises(LabelError, match=why):
            masks_of(data, tmp_path, labels=str(table), cv="site")
    table.write_text("slide_id,patient_id\na,p\nb,p\nc,p\n")
    with pytest.raises(LabelError, match="only one of the patients has both masks and patches: 'p'"):
        masks_of(data, tmp_path, labels=str(table))


def test_without_names_every_value_is_a_class_but_the_ignored(data: Path, tmp_path: Path) -> None:
    assert masks_of(data, tmp_path, mask_values=None).classes == ("1", "2", "9")
    masks = masks_of(data, tmp_path, mask_values=None, ignore=9)
    assert masks.classes == ("1", "2") and masks.uncounted == {9: 8 / SIDE}


def test_masks_of_the_scanned_part_count_from_its_corner(tmp_path: Path) -> None:
    for slide_id, at in (("a", (300, 211)), ("b", None)):
        write_slide(tmp_path, slide_id, 40, at)
    with pytest.raises(
        LabelError, match=r"a.mask.png is 128 x 64 pixels, its slide 1000 x 900 \(give --mask-origin bounds"
    ):
        masks_of(tmp_path, tmp_path)
    masks = masks_of(tmp_path, tmp_path, mask_origin="bounds")
    for row in (0, 1):
        part, whole = (slide.truth(row, SIDE, masks.classes) for slide in masks.slides)
        assert (part == whole).all() and set(np.unique(part)) == ({-1, 0, 1} if row == 0 else {-1, 0})
    cv2.imwrite(str(tmp_path / "masks/a.mask.png"), np.ones((900, 1000), np.uint8))
    with pytest.raises(LabelError, match=r"the scanned part of its slide 128 x 64 \(give --mask-origin slide"):
        masks_of(tmp_path, tmp_path, mask_origin="bounds")
    cv2.imwrite(str(tmp_path / "masks/a.mask.png"), np.ones((64, 64), np.uint8))
    with pytest.raises(LabelError, match=r"its slide 1000 x 900 \(give masks of the slides' full size"):
        masks_of(tmp_path, tmp_path)


def test_classes_that_look_alike_and_two_masks_of_a_slide_are_told(data: Path, tmp_path: Path) -> None:
    masks = masks_of(data, tmp_path, mask_values="1=Tumour,2=tumour,9=other")
    assert "classes differ only in case or blanks: 'Tumour' and 'tumour'" in masks.warnings
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("a.png", "a_mask.png"):
        (folder / name).write_bytes((data / "masks/a.mask.png").read_bytes())
    with pytest.raises(LabelError, match=r"two files for slide a: a.png and a_mask.png"):
        masks_of(data, tmp_path, dense=str(folder))


def test_masks_that_cannot_be_used_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="none of the classes; their values are 1, 2, 9"):
        masks_of(data, tmp_path, mask_values="255=tumour,0=other")
    with pytest.raises(LabelError, match="one class only: dark; their values are 1, 2, 9"):
        masks_of(data, tmp_path, mask_values="1=dark,7=other")
    with pytest.raises(ConfigError, match="nowhere is absent"):
        masks_of(data, tmp_path, dense=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"a.mask.png is a file, not a folder \(give a folder"):
        masks_of(data, tmp_path, dense=str(data / "masks/a.mask.png"))
    folder = tmp_path / "masks"
    folder.mkdir()
    cv2.imwrite(str(folder / "stranger.png"), np.ones((SIDE, 2 * SIDE), np.uint8))
    with pytest.raises(ConfigError, match=r"no file in .* is named by one of the slides; it has stranger.png"):
        masks_of(data, tmp_path, dense=str(folder))
    (folder / "a.png").write_bytes((data / "masks/a.mask.png").read_bytes())
    with pytest.raises(LabelError, match="only one of the slides has both masks and patches: 'a'"):
        masks_of(data, tmp_path, dense=str(folder))
    (folder / "b.png").write_bytes((data / "masks/b.mask.png").read_bytes())
    said = masks_of(data, tmp_path, dense=str(folder), mask_values="1=dark,2=bright,7=rare").warnings
    assert said == (
        "1 masks match no slide with patches: stranger.png",
        "1 slides have no mask and are left out: c",
        "1 values of --mask-values occur in no mask: 7=rare",
    )
    cv2.imwrite(str(folder / "b.png"), np.ones((5, 5), np.uint8))
    with pytest.raises(LabelError, match="b.png is 5 x 5 pixels, its slide 128 x 64"):
        masks_of(data, tmp_path, dense=str(folder))
    cv2.imwrite(str(folder / "b.png"), np.ones((SIDE, 2 * SIDE, 3), np.uint8))
    with pytest.raises(LabelError, match=r"b.png has shape \(64, 128, 3\)"):
        masks_of(data, tmp_path, dense=str(folder))
