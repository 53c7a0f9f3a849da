from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.errors import ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    SIDE,
    config,
    rows_of,
    write_jpeg_slide,
    write_slide,
)


def test_blur_is_measured_on_each_patch_in_um(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    pixels = tifffile.imread(path)
    pixels[:, SIDE // 2 :] = cv2.GaussianBlur(pixels, (0, 0), 4)[:, SIDE // 2 :]
    tags = {"resolution": (5e3, 5e3), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    for name, mpp, size in (("fine", 2.0, 64), ("coarse", 4.0, 32)):
        tile(config(tmp_path / name, path, mpp=mpp, patch_size=size), Silent())
        (made,) = PatchIndex.open(tmp_path / name).files
        left = made.coords[:, 0] + 64 <= SIDE // 2
        assert made.blur is not None and made.blur.dtype == np.float32 and np.isfinite(made.blur).all()
        sharp, far = np.median(made.blur[left]), np.median(made.blur[~left])
        assert 0.5 < sharp < 4.0 and 8.0 < far < 16.0


def test_lossless_patches_have_blur_and_lost_patches_have_none(tmp_path, inline):
    path = write_jpeg_slide(tmp_path / "a.tif", 5)
    for name, settings in (("copied", {"lossless": True}), ("encoded", {})):
        tile(config(tmp_path / name, path, patch_size=256, min_tissue=0.2, **settings), Silent())
        (made,) = PatchIndex.open(tmp_path / name).files
        assert len(made.source["unreadable"]) == 1 and made.blur is not None and len(made.blur) == len(made) > 2


def test_the_way_pixels_were_read_is_recorded(tmp_path, inline):
    write_slide(tmp_path / "in" / "plain.tif")
    write_jpeg_slide(tmp_path / "in" / "jpeg.tif")
    tile(config(tmp_path / "out", tmp_path / "in", mpp=4.0), Silent())
    made = {name: PatchFile.open(tmp_path / "out" / "patches" / f"{name}.h5") for name in ("plain", "jpeg")}
    assert made["plain"].source["path"] == "openslide" and "not JPEG" in made["plain"].source["path_why"]
    assert made["jpeg"].source["path"] == "direct" and "at 4/8 are" in made["jpeg"].source["path_why"]
    assert np.array_equal(made["plain"].coords, made["jpeg"].coords)
    for row in range(len(made["plain"])):
        one, two = (cv2.imdecode(np.frombuffer(file.read(row), np.uint8), 1).astype(int) for file in made.values())
        assert np.abs(one - two).mean() < 6
    tile(config(tmp_path / "coords", tmp_path / "in", coords_only=True), Silent())
    assert PatchFile.open(tmp_path / "coords" / "patches" / "jpeg.h5").source["path"] == "none"


def test_an_unreadable_region_costs_its_patches_which_are_listed(tmp_path, inline):
    whole, broken = write_jpeg_slide(tmp_path / "whole.tif"), write_jpeg_slide(tmp_path / "broken.tif", 5)
    reporter = Silent()
    outcome = tile(config(tmp_path / "out", whole, broken), reporter)
    assert outcome.failures == [] and ("unreadable patches", "16") in outcome.headline
    rows = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert int(rows["broken"]["unreadable"]) == 16 and rows["whole"]["unreadable"] == "0"
    made = {name: PatchFile.open(tmp_path / "out" / "patches" / f"{name}.h5") for name in ("whole", "broken")}
    lost = made["broken"].source["unreadable"]
    assert all(256 <= x < 512 and 256 <= y < 512 for x, y in lost)
    assert made["whole"].source["unreadable"] == []
    there = [xy for xy in made["whole"].coords.tolist() if not (256 <= xy[0] < 512 and 256 <= xy[1] < 512)]
    assert [xy for xy in there if xy in made["broken"].coords.tolist()] == there
    assert len(made["broken"]) == len(made["broken"].grid) == len(made["broken"].jpeg_offsets) - 1
    assert "broken.tif: 16 of" in reporter.warnings[0]
    again = tile(config(tmp_path / "out", whole, broken), Silent())
    assert {row["slide_id"]: row["unreadable"] for row in again.data["slides"]} == {"whole": 0, "broken": 16}


def test_a_slide_without_a_readable_patch_fails(tmp_path, inline):
    good, bad = write_jpeg_slide(tmp_path / "good.tif"), write_jpeg_slide(tmp_path / "bad.tif", *range(1, 16))
    (failure,) = tile(config(tmp_path / "out", good, bad, min_tissue=0.9), Silent()).failures
    assert failure.slide_id == "bad" and "patches can be read" in failure.reason
    assert not (tmp_path / "out" / "patches" / "bad.h5").exists()


def test_native_tiles_are_copied(tmp_path, inline):
    jpeg, plain = write_jpeg_slide(tmp_path / "jpeg.tif"), write_slide(tmp_path / "plain.tif")
    outcome = tile(config(tmp_path / "out", jpeg, plain, patch_size=256, lossless=True), Silent())
    (failure,) = outcome.failures
    assert failure.slide_id == "plain" and "no native JPEG files to copy" in failure.reason
    surveyed = tile(config(tmp_path / "dry", jpeg, plain, patch_size=256, lossless=True, dry_run=True), Silent())
    assert surveyed.failures == outcome.failures and surveyed.data["patches"] == outcome.data["patches"]
    made = PatchFile.open(tmp_path / "out" / "patches" / "jpeg.h5")
    content = jpeg.read_bytes()
    for row in range(len(made)):
        data = made.read(row)
        assert data[data.index(b"\xff\xda") :] in content
    assert len(made) >= 4
    for dry_run in (False, True):
        with pytest.raises(SlideError, match=r"its tiles are 256 x 256 pixels at 2 µm/px"):
            tile(config(tmp_path / "other", jpeg, lossless=True, dry_run=dry_run), Silent())
    with pytest.raises(ConfigError, match="whole native tiles"):
        config(tmp_path / "out", jpeg, lossless=True, overlap=8)


def test_a_slide_cut_short_fails_saying_so(tmp_path, inline):
    good, cut = write_slide(tmp_path / "good.tif"), write_slide(tmp_path / "cut.tif")
    cut.write_bytes(cut.read_bytes()[:-200_000])
    for settings in ({}, {"dry_run": True}):
        (failure,) = tile(config(tmp_path / "out", good, cut, **settings), Silent()).failures
        assert failure.reason == "cut.tif is cut short: 2 of 16 tiles lie beyond its end" and "copy" in failure.hint
