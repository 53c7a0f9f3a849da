"""A folder of class folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.errors import ArtefactError, LabelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tumour/b.png", "normal/c.PNG", "tumour/a.png", "tumour/.hidden.png", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)).save(tmp_path / name)
    (tmp_path / "tumour" / "notes.txt").write_text("")
    return tmp_path


def test_images_and_classes_in_order(folder: Path) -> None:
    found = ImageFolder.open(folder, crop=4)
    assert found.names == ("normal/c.PNG", "tumour/a.png", "tumour/b.png") and len(found) == 3
    assert found.label_names == ("normal", "tumour") and found.label.tolist() == [0, 1, 1]
    assert found.groups is None and found.name == folder.name


def test_what_is_such_a_folder(folder: Path, tmp_path: Path, make_patches) -> None:
    assert ImageFolder.is_one(folder)
    assert not ImageFolder.is_one(folder / "tumour")
    assert not ImageFolder.is_one(folder / "absent")
    assert not ImageFolder.is_one(make_patches())


def test_the_centre_of_an_image(folder: Path) -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.testing.assert_array_equal(ImageFolder.open(folder, crop=4).read(1), pixels[1:5, 2:6])


def test_the_shorter_side_is_resized_to_the_crop(folder: Path) -> None:
    half = np.zeros((10, 20, 3), np.uint8)
    half[:, 10:] = 200
    Image.fromarray(half).save(folder / "tumour" / "a.png")
    found = ImageFolder.open(folder, crop=30, interpolation="bilinear").read(1)
    assert found.shape == (30, 30, 3)
    assert (found[:, :12] == 0).all() and (found[:, -12:] == 200).all()  # the middle of 30 x 60


def test_an_image_smaller_than_the_crop(folder: Path) -> None:
    with pytest.raises(ArtefactError, match=r"a\.png is 8 x 6 pixels") as caught:
        ImageFolder.open(folder, crop=7).read(1)
    assert caught.value.hint.startswith("each side must have 7 pixels")


def test_a_damaged_image(folder: Path) -> None:
    (folder / "tumour" / "a.png").write_bytes(b"not an image")
    with pytest.raises(ArtefactError, match=r"a\.png is not an image of a known format") as caught:
        ImageFolder.open(folder, crop=4).read(1)
    assert caught.value.hint == "replace or remove it"


def test_groups_by_relative_path_or_file_name(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("name,group\nc.PNG,p1\ntumour/a.png,p2\nb.png,p1\n")
    assert ImageFolder.open(folder, table, crop=4).groups == ("p1", "p2", "p1")
    table.write_text("name,group\nc.PNG,p1\n")
    with pytest.raises(LabelError, match=r"no group for 2 of 3 images, first 'tumour/a\.png'"):
        ImageFolder.open(folder, table, crop=4)


def test_the_id_follows_the_images(folder: Path) -> None:
    before = ImageFolder.open(folder, crop=4).id
    assert ImageFolder.open(folder, crop=4).id == before
    (folder / "tumour" / "a.png").write_bytes(b"other")
    assert ImageFolder.open(folder, crop=4).id != before
