"""Slides of every kind that is promised, through the whole stage."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile


def tissue(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """An ellipse of textured tissue on glass that fills most of the picture."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 6.0)[..., None]
    rows, columns = np.indices((height, width))
    inside = np.hypot(rows / height - 0.5, columns / width - 0.5)[..., None] < 0.42
    picture = np.where(inside, np.array([170, 110, 160]) + 800 * noise, 240)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 2.0), 0, 255).astype(np.uint8)


def config(out: Path, *slides: Path, **settings: Any) -> TileConfig:
    return TileConfig.resolve({"slides": slides, "out": out, "workers": 1, "mpp": 2.0, "patch_size": 64, **settings})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_tiled(path: Path, pixels: NDArray[np.uint8], mpp: tuple[float, float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    return path


def test_a_slide_with_oblong_pixels_gives_square_patches(tmp_path, inline):
    pixels = tissue(768, 768)
    square = write_tiled(tmp_path / "in" / "square.tif", pixels, (2.0, 2.0))
    squeezed = cv2.resize(pixels, (768, 512), interpolation=cv2.INTER_AREA)
    oblong = write_tiled(tmp_path / "in" / "oblong.tif", squeezed, (2.0, 3.0))
    mask = np.zeros((512, 768), np.uint8)
    mask[:, :384] = 255
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "oblong.png"), mask)
    settings = {"mpp": 4.0, "annotations": tmp_path / "masks", "jpeg_quality": 95}
    outcome = tile(config(tmp_path / "out", square, oblong, **settings), Silent())
    assert not outcome.failures
    ours, theirs = PatchIndex.open(tmp_path / "out").files
    assert ours.slide_id == "oblong" and abs(len(ours) - len(theirs)) <= 2 and len(ours) > 15

    shared = {tuple(cell): row for row, cell in enumerate(theirs.grid.tolist())}
    compared = 0
    for row, cell in enumerate(map(tuple, ours.grid.tolist())):
        column, line = cell
        assert ours.coords[row].tolist() == [128 * column, int(np.floor(line * 256 / 3 + 0.5))]
        assert ours.label[row] == (0 if column < 3 else -1)
        if cell in shared:
            one, other = (simplejpeg.decode_jpeg(file.read(at)) for file, at in ((ours, row), (theirs, shared[cell])))
            assert one.shape == (64, 64, 3) and np.abs(one.astype(float) - other).mean() < 4
            compared += 1
    assert compared > 15

    made = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert [float(made["oblong"][name]) for name in ("mpp", "mpp_y", "mpp_actual")] == pytest.approx(
        [2, 3, 4], rel=1e-3
    )
    assert made["square"]["mpp"] == made["square"]["mpp_y"]
    assert float(made["oblong"]["tissue_mm2"]) == pytest.approx(float(made["square"]["tissue_mm2"]), rel=0.05)
    assert "oblong" in ours.source["path_why"] and theirs.source["path"] == "openslide"
    assert ours.geometry["patch_size_level0_xy"] == pytest.approx([128, 256 / 3])
    assert ours.geometry["mpp_level0_xy"] == pytest.approx([2, 3], rel=1e-3)
    wrong = {
        "patch_size_level0",
        "level0_magnification",
        "target_magnification",
        "patch_level",
        "mpp_level0",
        "stride0",
    }
    assert not wrong & set(ours.geometry) and wrong - {"patch_level"} <= set(theirs.geometry)
    assert "2 across, 3 down, µm/px" in (tmp_path / "out" / "index.html").read_text()

    again = tile(config(tmp_path / "out", square, oblong, **settings), Silent())
    assert again.data["skipped"] == 2 and rows_of(tmp_path / "out" / "slides.csv") == [*made.values()]


def test_chosen_patches_on_oblong_pixels(tmp_path, inline):
    """Our own coordinates tell both sides; a peer's file would have squares of pixels read, which are none in µm."""
    slide = write_tiled(tmp_path / "a.tif", tissue(768, 512), (2.0, 3.0))
    settings = {"mpp": 4.0, "jpeg_quality": 95}
    tile(config(tmp_path / "whole", slide, **settings), Silent())
    tile(config(tmp_path / "coords", slide, mpp=4.0, coords_only=True), Silent())
    tile(config(tmp_path / "out", slide, from_coords=tmp_path / "coords", **settings), Silent())
    whole, chosen = (PatchIndex.open(tmp_path / name, pixels=True) for name in ("whole", "out"))
    assert chosen.coords.tolist() == whole.coords.tolist() and (chosen.grid == -1).all()
    assert [chosen.read(n) for n in range(len(whole))] == [whole.read(n) for n in range(len(whole))]
    assert "stride0_xy" in whole.files[0].geometry and "stride0_xy" not in chosen.files[0].geometry
    np.testing.assert_allclose(chosen.cells, whole.cells, atol=0.01)
    with h5py.File(tmp_path / "coords" / "patches" / "a.h5", "r+") as file:
        del file["coords"].attrs["patch_size_level0_xy"]
        file["coords"].attrs["patch_size_level0"] = 128
    with pytest.raises(SlideError, match=r"256 µm wide and 384 µm high: a\.tif has oblong pixels"):
        tile(config(tmp_path / "none", slide, from_coords=tmp_path / "coords", **settings), Silent())


def test_native_tiles_of_oblong_pixels_are_not_copied(tmp_path, inline):
    oblong = write_tiled(tmp_path / "oblong.tif", tissue(768, 512), (2.0, 3.0))
    with pytest.raises(SlideError, match="its pixels are oblong, so its tiles cannot be patches"):
        tile(config(tmp_path / "out", oblong, mpp=4.0, lossless=True), Silent())
    with pytest.raises(SlideError, match="its pixels are oblong, but CLAM reads patches with equal sides"):
        tile(config(tmp_path / "out", oblong, mpp=4.0, layout="clam"), Silent())


def test_plain_images_by_name_list_and_folder(tmp_path, inline):
    """PNG and JPEG only where named or listed; a TIFF without tiles also where it is found."""
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = tissue(640, 512)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "b.jpg", quality=95)
    Image.fromarray(pixels).save(folder / "c.tif", compression="tiff_lzw")
    write_tiled(folder / "d.tif", pixels, (2.0, 2.0))
    outcome = tile(config(tmp_path / "found", folder), Silent())
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["d"]
    assert [(failure.slide_id, failure.reason) for failure in outcome.failures] == [
        ("c", "c.tif records no resolution")
    ]

    (folder / "table.csv").write_text("path,mpp\na.png,2.0\nb.jpg,2.0\n", encoding="utf-8")
    settings = {"list": folder / "table.csv", "slide_mpp": 2.0, "jpeg_quality": 95}
    outcome = tile(config(tmp_path / "all", folder, **settings), Silent())
    index = PatchIndex.open(tmp_path / "all", pixels=True)
    assert not outcome.failures and index.slide_ids == ("a", "b", "c", "d")
    assert [file.source["path"] for file in index.files] == ["plain", "plain", "plain", "openslide"]
    tiled = index.files[3]
    for file in index.files[:3]:
        assert file.coords.tolist() == tiled.coords.tolist() and len(file) > 20
        assert np.abs(file.tissue - tiled.tissue).max() < 0.05
        for row in range(0, len(file), 7):
            one, other = (simplejpeg.decode_jpeg(image.read(row)).astype(int) for image in (file, tiled))
            assert np.abs(one - other).mean() < 1


def test_a_damaged_strip_costs_its_patches_only(tmp_path, inline):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tissue(640, 512), photometric="rgb", rowsperstrip=64, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[3], tiff.pages.first.databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    outcome = tile(config(tmp_path / "out", path, slide_mpp=2.0), Silent())
    (row,) = outcome.data["slides"]
    made = PatchIndex.open(tmp_path / "out", pixels=True).files[0]
    assert row["unreadable"] > 0 and row["patches"] == len(made) > 20
    assert {y for _, y in made.source["unreadable"]} == {192} and 192 not in made.coords[:, 1]


@pytest.mark.parametrize("kind", ["tiled", "plain"])
@pytest.mark.parametrize(("side", "patches"), [(64, 1), (70, 1), (63, None), (1, None)])
def test_tiny_slides(tmp_path, inline, kind, side, patches):
    """A slide of one patch is a slide; a smaller one says so."""
    path, pixels = tmp_path / "a.tif", tissue(256, 256)[64 : 64 + side, 64 : 64 + side]
    write_tiled(path, pixels, (2.0, 2.0)) if kind == "tiled" else tifffile.imwrite(path, pixels, photometric="rgb")
    settings = {"slide_mpp": 2.0, "min_tissue": 0.0}
    if patches is None:
        with pytest.raises(SlideError, match=f"64 x 64 level-0 pixels, the slide has {side} x {side}") as caught:
            tile(config(tmp_path / "out", path, **settings), Silent())
        assert "--patch-size" in caught.value.hint
    else:
        assert tile(config(tmp_path / "out", path, **settings), Silent()).data["patches"] == patches


def test_a_dicom_series_is_one_slide(tmp_path, inline, real_data):
    for name in ("boxes_0.dcm", "boxes_1.dcm", "sm_image.dcm"):
        (tmp_path / "in" / "case").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real_data / "vendor" / name, tmp_path / "in" / "case" / name)
    notes: list[str] = []

    class Listening(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    settings = {"mpp": 0.499, "patch_size": 16, "min_tissue": 0.0}
    outcome = tile(config(tmp_path / "out", tmp_path / "in", **settings), Listening())
    rows = {row["slide_id"]: (row["patches"], row["width"], row["mpp_source"]) for row in outcome.data["slides"]}
    assert rows == {"boxes_0": (1, 16, "openslide"), "sm_image": (9, 50, "openslide")}
    assert notes == ["passed over 1 (1 further file of a DICOM series)"]
    assert tile(config(tmp_path / "out", tmp_path / "in", **settings), Silent()).data["skipped"] == 2
    further = tmp_path / "in" / "case" / "boxes_1.dcm"
    further.write_bytes(further.read_bytes()[:-2] + b"xx")
    (failure,) = tile(config(tmp_path / "out", tmp_path / "in", **settings), Silent()).failures
    assert failure.reason == "boxes_0.dcm has changed since it was tiled"
