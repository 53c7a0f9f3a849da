from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import tifffile

from sgcl_cli.artefacts import parts
from sgcl_cli.artefacts.lock import Lock
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import ArtefactError, ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile import claims, tile
from sgcl_cli.stages.tile import run as stage
from sgcl_cli.stages.tile.claims import lock_path
from sgcl_cli.stages.tile.slide import Job, Row, tile_slide

SETTINGS = {"mpp": 2.0, "patch_size": 64}
SIDE = 1024

WORK = """
import os, time
from sgcl_cli.stages.tile.slide import tile_slide


def work(progress, job):
    if job.entry.slide_id == "abort":
        os.abort()
    if job.entry.slide_id == "hang":
        time.sleep(600)
    return tile_slide(progress, job)
"""


def write_slide(path: Path, mpp: float | None = 2.0, tissue: bool = True, side: int = SIDE, seed: int = 0) -> Path:
    """A disc of textured tissue on glass, 2 mm across, in a tiled TIFF."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((side // 4, side // 4)) - side / 8
    texture = 1 + cv2.GaussianBlur(random.normal(0, 1, rows.shape), (0, 0), 1.0)[..., None]
    inside = (np.hypot(rows, columns) < side / 10)[..., None] & tissue
    image = 240 * np.exp(-np.where(inside, np.array([0.4, 0.8, 0.3]) * np.clip(texture, 0.1, 3), 0))
    pixels = np.rint(image).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    tags: dict[str, Any] = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    return path


def config(out: Path, *slides: Path, **settings: Any) -> TileConfig:
    return TileConfig.resolve({"slides": slides, "out": out, "workers": 1, **SETTINGS, **settings})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def work_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "treacherous_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(folder)
    import treacherous_work

    yield treacherous_work
    del sys.modules["treacherous_work"]


def test_writes_everything_the_next_stages_and_people_need(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "deep" / "b.tif", seed=1)
    out = tmp_path / "out"
    outcome = tile(config(out, tmp_path / "in"), Silent())
    index = PatchIndex.open(out, pixels=True)
    assert index.slide_ids == ("a", "b") and len(index) == outcome.data["patches"] > 40
    for name in ("thumbnails/a.jpg", "overlays/a.jpg", "contours/a.geojson"):
        assert (out / name).stat().st_size > 100
    assert json.loads((out / "contours" / "b.geojson").read_text())["type"] == "FeatureCollection"
    rows = rows_of(out / "slides.csv")
    assert [(row["slide_id"], row["path"], int(row["patches"])) for row in rows] == [
        ("a", "a.tif", len(index.files[0])),
        ("b", "deep/b.tif", len(index.files[1])),
    ]
    assert float(rows[0]["seconds"]) > 0 and float(rows[0]["peak_mib"]) > 0
    assert rows_of(out / "failures.csv") == []
    run = json.loads((out / "run.json").read_text())
    assert run["id"] == index.id and set(run["inputs"]) == {"a.tif", "deep/b.tif"}
    assert not [name for name in tree(out) if ".tmp" in name]


def test_patches_show_what_lies_at_their_coordinates(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "out", path, mpp=4.0, patch_size=32, jpeg_quality=100), Silent())
    made = PatchFile.open(tmp_path / "out" / "patches" / "a.h5")
    pixels = tifffile.imread(path)
    assert np.array_equal(made.coords, made.grid.astype(np.int64) * 64)
    assert (made.tissue >= 0.5).all()
    for row in range(0, len(made), 7):
        x, y = made.coords[row]
        expected = cv2.resize(pixels[y : y + 64, x : x + 64], (32, 32), interpolation=cv2.INTER_AREA).astype(int)
        patch = cv2.cvtColor(cv2.imdecode(np.frombuffer(made.read(row), np.uint8), 1), cv2.COLOR_BGR2RGB)
        assert np.abs(patch - expected).mean() < 6
        grey = np.abs(patch.mean(axis=2) - expected.mean(axis=2))
        assert grey.mean() < 2


def test_pen_is_a_share_of_each_patch(tmp_path, inline):
    samples = Path(__file__).parents[3] / "sample_data" / "slides"
    tile(config(tmp_path / "out", samples, mpp=0.5, patch_size=64, coords_only=True, min_tissue=0.1), Silent())
    for made in PatchIndex.open(tmp_path / "out").files:
        assert made.blur is None and made.pen is not None and made.pen.dtype == np.float32
        assert (made.pen + made.tissue <= 1 + 1e-5).all()
        assert (made.pen > 0.3).any() == (made.slide_id == "sample_pen_050")
        assert made.source["tissue_preset"] == "he"


def test_ink_is_told_in_mm2_and_warned_of(tmp_path, inline):
    samples = Path(__file__).parents[3] / "sample_data" / "slides"
    out, settings = tmp_path / "out", {"mpp": 0.5, "patch_size": 64, "coords_only": True}
    outcome = tile(config(out, samples, **settings), Silent())
    ink = {row["slide_id"]: float(row["ink_mm2"]) for row in rows_of(out / "slides.csv")}
    assert ink.pop("sample_pen_050") > 0.01 and set(ink.values()) == {0.0}
    (warning,) = [text for text in outcome.warnings if "taken for ink" in text]
    assert warning.startswith("sample_pen_050.tif: ") and "--ink off" in warning
    page = (out / "index.html").read_text()
    assert " mm² of ink" in page and "taken for ink" in page
    assert tile(config(out, samples, **settings), Silent()).data["slides"][-1]["ink_mm2"] is not None
    with pytest.raises(ConfigError, match="--ink was auto, is off"):
        tile(config(out, samples, ink="off", **settings), Silent())
    off = tile(config(tmp_path / "off", samples, ink="off", **settings), Silent())
    assert not [text for text in off.warnings if "ink" in text]
    assert {row["ink_mm2"] for row in rows_of(tmp_path / "off" / "slides.csv")} == {""}


def test_packed_tissue_is_tiled_throughout(tmp_path, inline):
    """Evenly dense on the thumbnail, nothing but cells at 2 um per pixel."""
    side = 1024
    cells = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, (side, side)), (0, 0), 1.0)
    cells -= cv2.GaussianBlur(cells, (0, 0), 2.5)
    light = 240 * np.exp(-np.array([0.7, 1.6, 0.95]) * (1 + 0.2 * cells / cells.std())[..., None])
    tags = {"resolution": (5000, 5000), "resolutionunit": "CENTIMETER"}
    pixels = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    outcome = tile(config(tmp_path / "out", tmp_path / "a.tif"), Silent())
    (row,) = outcome.data["slides"]
    assert (row["patches"], row["ink_mm2"]) == (256, 0.0)


def test_a_slide_whose_further_files_have_changed_is_not_complete(tmp_path, inline):
    """OpenSlide opens any TIFF, whatever its name: a stand-in for a MIRAX slide whose folder was not copied whole."""
    write_slide(tmp_path / "in" / "a.mrxs")
    (tmp_path / "in" / "a").mkdir()
    data = tmp_path / "in" / "a" / "Data0000.dat"
    data.write_bytes(b"cut")
    settings = {"coords_only": True}
    first = tile(config(tmp_path / "out", tmp_path / "in", **settings), Silent())
    assert tile(config(tmp_path / "out", tmp_path / "in", **settings), Silent()).data["skipped"] == 1
    data.write_bytes(b"mended")
    with pytest.raises(SlideError, match=r"a\.mrxs has changed since it was tiled"):
        tile(config(tmp_path / "out", tmp_path / "in", **settings), Silent())
    second = tile(config(tmp_path / "out", tmp_path / "in", overwrite=True, **settings), Silent())
    assert second.data["slides"][0]["identity"] != first.data["slides"][0]["identity"]


def test_a_slide_whose_levels_are_padded_is_read_from_a_finer_one_and_it_is_said(tmp_path, inline):
    whole = tifffile.imread(write_slide(tmp_path / "plain.tif", mpp=0.5))[:900]
    for name, pad in (("plain", 0), ("padded", 256)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as tiff:
            for factor in (1, 2, 4):
                level = cv2.resize(whole, (SIDE // factor, 900 // factor), interpolation=cv2.INTER_AREA)
                if pad and factor > 1:
                    level = np.pad(level, ((0, -len(level) % pad), (0, 0), (0, 0)), constant_values=255)
                tags = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "subfiletype": int(factor > 1)}
                tiff.write(level, tile=(256, 256), photometric="rgb", metadata=None, **tags)
        outcome = tile(config(tmp_path / name, tmp_path / f"{name}.tif", jpeg_quality=100), Silent())
        assert [text for text in outcome.warnings if "no reduced copies" in text] == (
            [f"padded.tif: {rows_of(tmp_path / name / 'slides.csv')[0]['remarks']}"] if pad else []
        )
    (plain,), (padded,) = (PatchIndex.open(tmp_path / name).files for name in ("plain", "padded"))
    assert np.array_equal(plain.coords, padded.coords) and len(plain) >= 4
    for row in range(len(plain)):
        one, other = (cv2.imdecode(np.frombuffer(file.read(row), np.uint8), 1).astype(int) for file in (plain, padded))
        assert np.abs(one - other).mean() < 2
    assert "no reduced copies" in (tmp_path / "padded" / "index.html").read_text()


@pytest.mark.parametrize(("mpp", "doubted"), [(0.25, False), (1.0, True), (0.05, True)])
def test_a_resolution_given_by_hand_is_doubted_where_nuclei_would_be_of_no_usual_size(tmp_path, inline, mpp, doubted):
    random = np.random.default_rng(0)
    picture = np.full((1536, 1536, 3), (225, 180, 210), np.float32)
    for x, y in random.integers(0, 1536, (1500, 2)).tolist():
        cv2.circle(picture, (x, y), 10, (90, 50, 130), cv2.FILLED)
    pixels = np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None)
    settings = {"slide_mpp": mpp, "mpp": mpp, "coords_only": True, "min_area": 0}
    outcome = tile(config(tmp_path / "out", tmp_path / "a.tif", **settings), Silent())
    warnings = [text for text in outcome.warnings if "um/px that were given" in text]
    assert len(warnings) == doubted and all("check --slide-mpp" in text for text in warnings)


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


def test_tissue_of_the_table_wins_and_a_change_is_refused(tmp_path, inline):
    write_slide(tmp_path / "a.tif")
    write_slide(tmp_path / "b.tif")
    table, out = tmp_path / "slides.csv", tmp_path / "out"
    table.write_text("path,tissue,min_area\na.tif,faint,\nb.tif,,1e9\n")
    outcome = tile(config(out, list=str(table), tissue="ihc"), Silent())
    first, second = outcome.data["slides"]
    assert (first["tissue_preset"], second["tissue_preset"]) == ("faint", "ihc")
    assert first["patches"] > 20 and second["reason"] == "no tissue found"
    assert [row["tissue_preset"] for row in rows_of(out / "slides.csv")] == ["faint", "ihc"]
    assert "(faint)" in (out / "index.html").read_text()
    again = tile(config(out, list=str(table), tissue="ihc"), Silent())
    assert again.data["skipped"] == 2 and again.data["slides"][0]["tissue_preset"] == "faint"
    before = PatchFile.open(out / "patches" / "a.h5").id
    table.write_text("path,tissue,min_area\na.tif,he,\nb.tif,,1e9\n")
    with pytest.raises(ConfigError, match=r"a\.h5 was made under other settings: tissue in --list was faint, is he"):
        tile(config(out, list=str(table), tissue="ihc"), Silent())
    tile(config(out, list=str(table), tissue="ihc", overwrite=True), Silent())
    assert PatchFile.open(out / "patches" / "a.h5").id != before
    with pytest.raises(ConfigError, match="--tissue was ihc, is auto"):
        tile(config(out, list=str(table)), Silent())


def write_jpeg_slide(path: Path, *broken: int) -> Path:
    """The disc of ``write_slide`` in JPEG tiles, of which some cannot be decoded."""
    write_slide(path)
    pixels = tifffile.imread(path)
    parts = [pixels[y : y + 256, x : x + 256] for y in range(0, SIDE, 256) for x in range(0, SIDE, 256)]
    files = [cv2.imencode(".jpg", cv2.cvtColor(part, cv2.COLOR_RGB2BGR))[1].tobytes() for part in parts]
    for number in broken:
        files[number] = bytes(len(files[number]))
    tags = {"resolution": (1e4 / 2.0, 1e4 / 2.0), "resolutionunit": "CENTIMETER"}
    settings = {"shape": pixels.shape, "dtype": np.uint8, "tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, iter(files), compression="zlib", extratags=[(530, 3, 2, (2, 2), True)], **settings, **tags)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)
    return path


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


def test_a_dry_run_goes_on_where_a_patch_that_it_tries_cannot_be_read(tmp_path, inline):
    whole, broken = write_jpeg_slide(tmp_path / "whole.tif"), write_jpeg_slide(tmp_path / "broken.tif", 4, 5, 6, 7)
    settings = {"patch_size": 256, "dry_run": True}
    outcome = tile(config(tmp_path / "out", whole, broken, **settings), Silent())
    assert outcome.failures == []
    (warning,) = outcome.warnings
    assert "broken.tif: " in warning and "of the patches tried cannot be read and would be left out" in warning
    survey = outcome.data["slides"][0]
    assert survey["slide_id"] == "broken" and 0 < survey["least_bytes"] < survey["most_bytes"]


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
        with pytest.raises(SlideError, match=r"its tiles are 256 x 256 pixels at 2 um/px"):
            tile(config(tmp_path / "other", jpeg, lossless=True, dry_run=dry_run), Silent())
    with pytest.raises(ConfigError, match="whole native tiles"):
        config(tmp_path / "out", jpeg, lossless=True, overlap=8)


def test_a_slide_cut_short_fails_saying_so(tmp_path, inline):
    good, cut = write_slide(tmp_path / "good.tif"), write_slide(tmp_path / "cut.tif")
    cut.write_bytes(cut.read_bytes()[:-200_000])
    for settings in ({}, {"dry_run": True}):
        (failure,) = tile(config(tmp_path / "out", good, cut, **settings), Silent()).failures
        assert failure.reason == "cut.tif is cut short: 2 of 16 tiles lie beyond its end" and "copy" in failure.hint


def test_attributes_that_other_readers_look_for(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif", mpp=0.5)
    trident = {"patch_size_level0", "level0_magnification", "target_magnification", "savetodir", "level0_width"}
    clam = {"patch_level", "downsample", "level_dim", "downsampled_level_dim"}
    settings = {"min_tissue": 0.0, "coords_only": True}
    tile(config(tmp_path / "exact", path, mpp=0.5, **settings), Silent())
    tile(config(tmp_path / "between", path, mpp=0.8, overlap=16, **settings), Silent())
    exact = PatchFile.open(tmp_path / "exact" / "patches" / "a.h5").geometry
    between = PatchFile.open(tmp_path / "between" / "patches" / "a.h5").geometry
    assert trident <= set(exact) and clam <= set(exact)
    assert (exact["patch_level"], exact["level_dim"], exact["downsample"]) == (0, [SIDE, SIDE], [1.0, 1.0])
    assert trident <= set(between) and not clam & set(between)
    assert between["patch_size"] == 64 and between["overlap"] == 16
    assert between["patch_size_level0"] == pytest.approx(64 * 1.6) and between["stride0"] == pytest.approx(48 * 1.6)
    assert (between["level0_magnification"], between["target_magnification"]) == (20, 12.5)
    assert (between["mpp_level0"], between["mpp_target"], between["mpp_actual"]) == (0.5, 0.8, 0.8)


def test_coordinates_alone(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "out", path, coords_only=True), Silent())
    made = PatchFile.open(tmp_path / "out" / "patches" / "a.h5")
    assert len(made) > 20 and not made.has_pixels
    with pytest.raises(ArtefactError, match="without pixels"):
        PatchIndex.open(tmp_path / "out", pixels=True)


def test_small_upsampling_is_recorded_and_larger_needs_consent(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif", mpp=2.08)
    tile(config(tmp_path / "out", path), Silent())
    assert PatchFile.open(tmp_path / "out" / "patches" / "a.h5").geometry["mpp_actual"] == pytest.approx(2.08)
    with pytest.raises(SlideError, match=r"level 0 is 2\.08 um/px, asked for 1\.9"):
        tile(config(tmp_path / "strict", path, mpp=1.9), Silent())
    reporter = Silent()
    outcome = tile(config(tmp_path / "consent", path, mpp=1.0, allow_upsample=True), reporter)
    assert outcome.warnings == reporter.warnings and "2.08 um/px" in outcome.warnings[0]


def test_a_bad_slide_is_recorded_and_the_rest_goes_on(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "good.tif")
    write_slide(folder / "no resolution.tif", mpp=None)
    write_slide(folder / "coarse.tif", mpp=4.0)
    write_slide(folder / "small.tif", side=32)
    write_slide(folder / "blank.tif", tissue=False)
    (folder / "empty.svs").touch()
    (folder / "text.svs").write_text("no slide")
    (folder / "[red]<script>.svs").write_text("no slide")
    whole = write_slide(folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "picture.png").touch()
    outcome = tile(config(tmp_path / "out", folder), Silent())
    reasons = {failure.slide_id: failure.reason for failure in outcome.failures}
    assert set(reasons) == {"no resolution", "coarse", "small", "empty", "text", "[red]<script>", "cut"}
    assert "records no resolution" in reasons["no resolution"]
    assert "asked for 2" in reasons["coarse"]
    assert "64 x 64 level-0 pixels, the slide has 32 x 32" in reasons["small"]
    assert "not a slide" in reasons["text"]
    assert all(failure.hint for failure in outcome.failures) and outcome.total == 9
    assert {row["slide_id"]: row["reason"] for row in rows_of(tmp_path / "out" / "failures.csv")} == reasons
    rows = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert set(rows) == {"good", "blank"} and rows["blank"]["reason"] == "no tissue found"
    blank = PatchFile.open(tmp_path / "out" / "patches" / "blank.h5")
    assert len(blank) == 0 and blank.reason == "no tissue found"
    assert sorted(path.name for path in (tmp_path / "out" / "patches").iterdir()) == ["blank.h5", "good.h5"]


def test_failed_slides_are_tried_again_and_complete_ones_skipped(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "good.tif")
    (folder / "later.tif").write_text("not copied yet")
    first = tile(config(tmp_path / "out", folder), Silent())
    assert [failure.slide_id for failure in first.failures] == ["later"]
    before = (tmp_path / "out" / "patches" / "good.h5").stat().st_mtime_ns
    write_slide(folder / "later.tif")
    os.utime(folder / "good.tif", (1, 1))
    second = tile(config(tmp_path / "out", folder), Silent())
    assert second.failures == [] and second.data["skipped"] == 1
    assert (tmp_path / "out" / "patches" / "good.h5").stat().st_mtime_ns == before
    rows = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert all(float(rows[name]["seconds"]) > 0 for name in ("good", "later"))
    assert rows_of(tmp_path / "out" / "failures.csv") == []
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<dt>Time</dt>") == 2 and "not copied yet" not in page


def test_a_second_run_gives_the_same_bytes(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "one", path), Silent())
    tile(config(tmp_path / "two", path), Silent())
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert PatchIndex.open(tmp_path / "one").id == PatchIndex.open(tmp_path / "two").id
    for name in ("thumbnails/a.jpg", "overlays/a.jpg", "contours/a.geojson"):
        assert one[name] == two[name]
    first, second = (PatchFile.open(tmp_path / name / "patches" / "a.h5") for name in ("one", "two"))
    assert np.array_equal(first.jpeg, second.jpeg) and np.array_equal(first.coords, second.coords)


def test_other_settings_are_refused_by_name_unless_overwritten(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "out", path), Silent())
    before = tree(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--min-tissue was 0\.5, is 0\.7") as caught:
        tile(config(tmp_path / "out", path, min_tissue=0.7), Silent())
    assert "--overwrite" in caught.value.hint and caught.value.exit_code == 2
    other = write_slide(tmp_path / "b.tif")
    with pytest.raises(ConfigError, match=r"--mpp was 2\.0, is 4\.0"):
        tile(config(tmp_path / "out", other, mpp=4.0), Silent())
    assert tree(tmp_path / "out") == before
    tile(config(tmp_path / "out", path, min_tissue=0.7, overwrite=True), Silent())
    assert PatchFile.open(tmp_path / "out" / "patches" / "a.h5").config["min_tissue"] == 0.7


def test_overwriting_a_slide_that_fails_leaves_no_old_file(tmp_path, inline):
    good, path = write_slide(tmp_path / "good.tif"), write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "out", good, path), Silent())
    path.write_text("destroyed")
    outcome = tile(config(tmp_path / "out", good, path, min_tissue=0.7, overwrite=True), Silent())
    assert [failure.slide_id for failure in outcome.failures] == ["a"]
    assert PatchIndex.open(tmp_path / "out").slide_ids == ("good",)


def test_a_slide_that_changed_or_vanished_since_fails_and_keeps_its_file(tmp_path, inline):
    good, path = write_slide(tmp_path / "good.tif"), write_slide(tmp_path / "a.tif")
    table = tmp_path / "slides.csv"
    table.write_text("path\ngood.tif\na.tif\n")
    settings = {"list": str(table)}
    tile(config(tmp_path / "out", **settings), Silent())
    kept = (tmp_path / "out" / "patches" / "a.h5").read_bytes()
    write_slide(path, seed=5)
    os.utime(path, (2, 2))
    (failure,) = tile(config(tmp_path / "out", **settings), Silent()).failures
    assert "has changed since it was tiled" in failure.reason and "--overwrite" in failure.hint
    path.unlink()
    (failure,) = tile(config(tmp_path / "out", **settings), Silent()).failures
    assert "No such file" in failure.reason
    assert (tmp_path / "out" / "patches" / "a.h5").read_bytes() == kept
    assert good.exists()


def test_a_damaged_or_foreign_patches_file_is_not_overwritten_silently(tmp_path, inline):
    good, path = write_slide(tmp_path / "good.tif"), write_slide(tmp_path / "a.tif")
    tile(config(tmp_path / "out", good, path), Silent())
    target = tmp_path / "out" / "patches" / "a.h5"
    target.write_bytes(target.read_bytes()[:1000])
    (failure,) = tile(config(tmp_path / "out", good, path), Silent()).failures
    assert failure.slide_id == "a" and "--overwrite" in failure.hint
    with h5py.File(target, "w") as file:
        file["coords"] = np.zeros((3, 2), np.int64)
    (failure,) = tile(config(tmp_path / "out", good, path), Silent()).failures
    assert "is not sgcl.patches/1" in failure.reason


def test_resolution_of_the_table_wins_and_a_change_is_refused(tmp_path, inline):
    write_slide(tmp_path / "a.tif", mpp=None)
    table = tmp_path / "slides.csv"
    table.write_text("path,slide_id,mpp\na.tif,007,2.0\n")
    tile(config(tmp_path / "out", list=str(table)), Silent())
    made = PatchFile.open(tmp_path / "out" / "patches" / "007.h5")
    assert made.slide_id == "007" and made.geometry["mpp_level0"] == 2.0 and made.source["mpp_source"] == "given"
    table.write_text("path,slide_id,mpp\na.tif,007,1.0\n")
    with pytest.raises(ConfigError, match=r"mpp in --list was 2\.0, is 1\.0"):
        tile(config(tmp_path / "out", list=str(table)), Silent())
    outcome = tile(config(tmp_path / "default", tmp_path / "a.tif", slide_mpp=2.0), Silent())
    assert outcome.data["patches"] > 20


def test_nothing_usable_is_an_error_and_its_files_stay(tmp_path, inline):
    blank = write_slide(tmp_path / "blank.tif", tissue=False)
    with pytest.raises(SlideError, match=r"none of 1 slides gave a patch; first blank\.tif: no tissue found") as caught:
        tile(config(tmp_path / "out", blank), Silent())
    assert caught.value.exit_code == 1 and "--min-tissue" in caught.value.hint
    assert len(PatchFile.open(tmp_path / "out" / "patches" / "blank.h5")) == 0
    assert (tmp_path / "out" / "overlays" / "blank.jpg").exists() and (tmp_path / "out" / "run.json").exists()
    bad = [tmp_path / name for name in ("x.svs", "y.svs")]
    for path in bad:
        path.write_text("no slide")
    with pytest.raises(SlideError, match=r"^x\.svs is not a slide"):
        tile(config(tmp_path / "single", bad[0]), Silent())
    with pytest.raises(SlideError, match=r"none of 2 slides could be tiled; first x\.svs"):
        tile(config(tmp_path / "both", *bad), Silent())
    assert len(rows_of(tmp_path / "both" / "failures.csv")) == 2


def test_dry_run_says_what_would_happen_and_writes_nothing(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "b.tif", mpp=None)
    outcome = tile(config(tmp_path / "out", tmp_path / "in", dry_run=True), Silent())
    (row,) = outcome.data["slides"]
    assert (row["slide_id"], row["mpp"]) == ("a", pytest.approx(2.0))
    assert [failure.slide_id for failure in outcome.failures] == ["b"]
    assert not (tmp_path / "out").exists()
    tile(config(tmp_path / "out", tmp_path / "in"), Silent())
    made = PatchFile.open(tmp_path / "out" / "patches" / "a.h5")
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("a.*"))
    assert row["patches"] == len(made) and row["tissue_mm2"] == made.source["tissue_mm2"]
    assert row["least_bytes"] < row["most_bytes"] and 0.6 * row["least_bytes"] < written < 1.6 * row["most_bytes"]
    assert 0 < row["least_seconds"] < row["most_seconds"]
    headline = dict(outcome.headline)
    assert headline["patches"] == f"{len(made):,}" and headline["output"] == "nothing written"
    assert headline["expected on disk"].endswith(" MiB") and headline["expected time"].endswith(" s with 1 worker")
    rest = dict(tile(config(tmp_path / "out", tmp_path / "in", dry_run=True), Silent()).headline)
    assert rest["expected on disk"] == "0.0 to 0.0 MiB" and rest["expected time"] == "0 to 0 s with 1 worker"


def test_the_page_shows_every_slide_and_nothing_a_name_could_do(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "a%20'b' <i>&.tif")
    write_slide(folder / "coarse.tif", mpp=8.0)
    write_slide(folder / "blank.tif", tissue=False)
    (folder / "<script>alert(1)</script>.svs".replace("/", "")).write_text("no slide")
    outcome = tile(config(tmp_path / "out", folder, allow_upsample=True), Silent())
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('<article class="slide"') == outcome.total == 4
    assert "<script>alert" not in page and "<i>" not in page
    (patches,) = [row["patches"] for row in outcome.data["slides"] if "%20" in row["slide_id"]]
    assert f'data-status="done" data-patches="{patches}"' in page
    assert 'data-status="empty"' in page and "no tissue found" in page
    assert (
        'data-status="failed"' in page
        and "is not a slide that OpenSlide knows: Unsupported or missing image file. What to do: " in page
    )
    assert 'href="overlays/a%2520%27b%27%20%3Ci%3E%26.jpg"' in page
    assert "level 0 is 2 um/px on some slides, 8 on others" in page
    assert page.count("hold less detail than they could") == 1 and str(tmp_path / "in" / "a") not in page


def test_output_that_cannot_be_written_stops_the_run(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "patches").write_text("a file")
    with pytest.raises(ArtefactError, match="cannot write"):
        tile(config(tmp_path / "out", path), Silent())


def test_full_disk_stops_the_run_and_leaves_nothing_half_written(tmp_path, inline, monkeypatch):
    path = write_slide(tmp_path / "a.tif")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="disk is full"):
        tile(config(tmp_path / "out", path), Silent())
    assert tree(tmp_path / "out") == {}


def test_a_defect_costs_its_slide_and_keeps_its_traceback(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "b.tif")

    def work(progress: Progress, job: Job) -> Row:
        if job.entry.slide_id == "a":
            raise ZeroDivisionError("oh")
        return tile_slide(progress, job)

    reporter = Silent()
    (failure,) = tile(config(tmp_path / "out", tmp_path / "in"), reporter, work).failures
    assert failure.reason == "unexpected ZeroDivisionError: oh"
    assert "in work" in reporter.warnings[0]


def test_two_slides_of_one_name_are_refused_before_work(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "deep" / "a.tif")
    with pytest.raises(ConfigError, match="slides of one name"):
        tile(config(tmp_path / "out", tmp_path / "in"), Silent())
    assert not (tmp_path / "out").exists()
    outcome = tile(config(tmp_path / "out", tmp_path / "in", id_from="path"), Silent())
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["a.tif", "deep__a.tif"]


def without_measures(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "peak_mib")} for row in rows]


def test_shards_give_what_one_run_gives(tmp_path, inline):
    folder = tmp_path / "in"
    for number in range(5):
        write_slide(folder / f"{number}.tif", seed=number)
    (folder / "bad.tif").write_text("no slide")
    tile(config(tmp_path / "whole", folder), Silent())
    outcomes = [tile(config(tmp_path / "out", folder, shard=f"{number}/4"), Silent()) for number in (3, 1, 4, 2)]
    assert [[row["slide_id"] for row in outcome.data["slides"]] for outcome in outcomes] == [
        ["2"],
        ["0", "4"],
        ["3"],
        ["1"],
    ]
    assert [outcome.total for outcome in outcomes] == [1, 2, 1, 2]
    assert [len(outcome.failures) for outcome in outcomes] == [0, 0, 0, 1]
    whole, shards = tmp_path / "whole", tmp_path / "out"
    assert without_measures(rows_of(shards / "slides.csv")) == without_measures(rows_of(whole / "slides.csv"))
    assert all(float(row["seconds"]) > 0 and float(row["peak_mib"]) > 0 for row in rows_of(shards / "slides.csv"))
    assert rows_of(shards / "failures.csv") == rows_of(whole / "failures.csv")
    runs = [json.loads((where / "run.json").read_text()) for where in (whole, shards)]
    assert runs[0]["id"] == runs[1]["id"] == PatchIndex.open(shards).id and runs[0]["inputs"] == runs[1]["inputs"]
    assert runs[0]["result"]["failures"] == runs[1]["result"]["failures"]
    assert sorted(part["shard"] for part in runs[1]["parts"]) == [[1, 4], [2, 4], [3, 4], [4, 4]]
    page = (shards / "index.html").read_text()
    assert page.count('<article class="slide"') == 6 and "--shard" not in page
    assert set(tree(shards)) == set(tree(whole))


def test_a_shard_runs_again_and_an_empty_one_is_complete(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "b.tif")
    (folder / "a.tif").write_text("not copied yet")
    failing = tile(config(tmp_path / "out", folder, shard="1/3"), Silent())
    assert len(failing.failures) == failing.total == 1
    for shard in ("2/3", "3/3"):
        outcome = tile(config(tmp_path / "out", folder, shard=shard), Silent())
        assert outcome.failures == [] and outcome.total == (1 if shard == "2/3" else 0)
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "failures.csv")] == ["a"]
    write_slide(folder / "a.tif")
    tile(config(tmp_path / "out", folder, shard="1/3"), Silent())
    assert rows_of(tmp_path / "out" / "failures.csv") == []
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "slides.csv")] == ["a", "b"]


def test_tables_tell_what_all_runs_made_and_a_run_replaces_what_it_said_before(tmp_path, inline):
    for name in "ab":
        write_slide(tmp_path / name / f"{name}.tif")
        (tmp_path / name / f"bad_{name}.tif").write_text("no slide")
        tile(config(tmp_path / "out", tmp_path / name), Silent())

    def told() -> list[list[str]]:
        return [[row["slide_id"] for row in rows_of(tmp_path / "out" / f"{of}.csv")] for of in ("slides", "failures")]

    assert told() == [["a", "b"], ["bad_a", "bad_b"]]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["id"] == PatchIndex.open(tmp_path / "out").id
    (tmp_path / "a" / "bad_a.tif").unlink()
    tile(config(tmp_path / "out", tmp_path / "a"), Silent())
    assert told() == [["a", "b"], ["bad_b"]]


def test_whoever_writes_the_tables_takes_in_all_who_wait(tmp_path, inline, monkeypatch):
    folder = tmp_path / "in"
    for name in "ab":
        write_slide(folder / f"{name}.tif")
        (folder / f"bad_{name}.tif").write_text("no slide")
    announce, written = parts.announce, []

    def announce_and_let_another_go_first(out: Path, part: Any) -> None:
        announce(out, part)
        if part.shard == (1, 2):
            tile(config(out, folder, shard="2/2"), Silent())

    write_tables = stage._write_tables
    monkeypatch.setattr(parts, "announce", announce_and_let_another_go_first)
    monkeypatch.setattr(stage, "_write_tables", lambda *given: (written.append(given), write_tables(*given)))
    tile(config(tmp_path / "out", folder, shard="1/2"), Silent())
    assert len(written) == 1
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "slides.csv")] == ["a", "b"]
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "failures.csv")] == ["bad_a", "bad_b"]
    assert not [name for name in tree(tmp_path / "out") if name.startswith(".")]


def test_a_slide_that_another_run_works_on_comes_last_and_is_not_done_twice(tmp_path, inline, monkeypatch):
    for name in "abc":
        write_slide(tmp_path / "in" / f"{name}.tif")
    out, done = tmp_path / "out", []
    elsewhere = {name: Lock(lock_path(out, name)) for name in "ab"}
    for lock in elsewhere.values():
        assert lock.take()

    def work(progress: Progress, job: Job) -> Row:
        done.append(job.entry.slide_id)
        return tile_slide(progress, job)

    def others_finish(_: float) -> None:
        if len(elsewhere) == 2:
            tile_slide(Progress(0), Job(Entry("a", tmp_path / "in" / "a.tif", "a.tif"), config(out)))
            elsewhere.pop("a").release()
        else:
            elsewhere.pop("b").release()

    monkeypatch.setattr(claims.time, "sleep", others_finish)
    outcome = tile(config(out, tmp_path / "in"), Silent(), work)
    assert done == ["c", "b"] and outcome.data["skipped"] == 1
    assert [row["slide_id"] for row in rows_of(out / "slides.csv")] == ["a", "b", "c"]


def test_a_slide_that_failed_here_counts_where_another_run_made_it(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")

    def work(progress: Progress, job: Job) -> Row:
        tile_slide(progress, job)
        raise SlideError("the file server did not answer")

    outcome = tile(config(tmp_path / "out", tmp_path / "in"), Silent(), work)
    assert outcome.failures == [] and outcome.data["skipped"] == 1
    assert rows_of(tmp_path / "out" / "failures.csv") == []


def test_runs_of_other_settings_at_the_same_time_are_refused(tmp_path, inline):
    for name in "ab":
        write_slide(tmp_path / "in" / f"{name}.tif")

    def work(progress: Progress, job: Job) -> Row:
        with pytest.raises(ConfigError, match="another run works on .*out under other settings"):
            tile(config(tmp_path / "out", tmp_path / "in" / "b.tif", mpp=4.0, overwrite=True), Silent(), tile_slide)
        return tile_slide(progress, job)

    outcome = tile(config(tmp_path / "out", tmp_path / "in"), Silent(), work)
    assert outcome.failures == [] and len(outcome.data["slides"]) == 2


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    lock = lock_path(tmp_path / "out", "a")
    program = (
        f"import os; from pathlib import Path; from sgcl_cli.artefacts.lock import Lock; "
        f"lock = Lock(Path({str(lock)!r})); lock.take(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program])
    assert lock.exists()
    started = time.monotonic()
    outcome = tile(config(tmp_path / "out", path), Silent())
    assert outcome.failures == [] and time.monotonic() - started < 60
    assert not lock.exists()


@pytest.mark.parametrize(
    "slide_id", ["two words", "ünï-côdé 组织", "-rf", "=1+1", "x" * 200, "é" * 100, "a.b.c", "%41?#"]
)
def test_odd_ids_name_their_files(tmp_path, inline, slide_id):
    write_slide(tmp_path / "a.tif")
    table = tmp_path / "slides.csv"
    table.write_text(f"path,slide_id\na.tif,{slide_id}\n", encoding="utf-8")
    for skipped in (0, 1):
        outcome = tile(config(tmp_path / "out", list=str(table)), Silent())
        assert outcome.data["skipped"] == skipped and outcome.failures == []
    assert PatchIndex.open(tmp_path / "out").slide_ids == (slide_id,)
    for name in (f"overlays/{slide_id}.jpg", f"thumbnails/{slide_id}.jpg", f"contours/{slide_id}.geojson"):
        assert (tmp_path / "out" / name).exists()
    assert [row["slide_id"].removeprefix("'") for row in rows_of(tmp_path / "out" / "slides.csv")] == [slide_id]


def test_a_folder_that_may_only_be_read_stops_the_run(tmp_path, inline, monkeypatch):
    path = write_slide(tmp_path / "a.tif")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ArtefactError, match="cannot write .*: Read-only file system") as caught:
        tile(config(tmp_path / "out", path), Silent())
    assert "--out" in caught.value.hint and caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_slide_that_may_not_be_read_fails_saying_so(tmp_path, inline):
    write_slide(tmp_path / "in" / "good.tif")
    write_slide(tmp_path / "in" / "closed.tif").chmod(0)
    (failure,) = tile(config(tmp_path / "out", tmp_path / "in"), Silent()).failures
    assert failure.slide_id == "closed" and "Permission denied" in failure.reason


def test_mixed_resolutions_are_a_warning_not_a_failure(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif", mpp=2.0)
    write_slide(tmp_path / "in" / "b.tif", mpp=0.5)
    for number in (1, 2):
        outcome = tile(config(tmp_path / "out", tmp_path / "in", shard=f"{number}/2"), Silent())
        assert outcome.failures == outcome.warnings == []
    said = json.loads((tmp_path / "out" / "run.json").read_text())["result"]["warnings"]
    assert said == [
        "level 0 is 0.5 um/px on some slides, 2 on others: patches have one resolution, but not one sharpness"
    ]
    assert said[0] in (tmp_path / "out" / "index.html").read_text()
    reporter = Silent()
    assert tile(config(tmp_path / "whole", tmp_path / "in"), reporter).warnings == said == reporter.warnings


def test_a_reader_that_crashes_or_hangs_costs_its_slide_only(tmp_path, work_module):
    for name in ("abort", "fine", "hang"):
        write_slide(tmp_path / "in" / f"{name}.tif")
    settings = config(tmp_path / "out", tmp_path / "in", workers=2, slide_timeout=4.0)
    outcome = tile(settings, Silent(), work_module.work)
    reasons = {failure.slide_id: failure.reason for failure in outcome.failures}
    assert set(reasons) == {"abort", "hang"}
    assert "aborted" in reasons["abort"] and "longer than 4 s" in reasons["hang"]
    assert PatchIndex.open(tmp_path / "out", pixels=True).slide_ids == ("fine",)
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path):
    for number in range(6):
        write_slide(tmp_path / "in" / f"{number}.tif", seed=number)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from sgcl_cli.config import TileConfig\n"
        "from sgcl_cli.progress import Silent\n"
        "from sgcl_cli.stages.tile import tile\n"
        "if __name__ == '__main__':\n"
        f"    settings = {SETTINGS!r} | {{'slides': [sys.argv[1]], 'out': sys.argv[2], 'workers': 1}}\n"
        "    print(tile(TileConfig.resolve(settings), Silent()).data['skipped'])\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(stage.__file__).parents[3]), *sys.path])}
    killed = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("patches/*.h5"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    time.sleep(0.5)
    done = list((tmp_path / "out").glob("patches/*.h5"))
    assert 2 <= len(done) < 6
    for path in done:
        assert len(PatchFile.open(path)) > 20
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(again.stdout) >= len(done)
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    assert PatchIndex.open(tmp_path / "out").id == PatchIndex.open(tmp_path / "whole").id


COUNTED_WORK = """
from pathlib import Path
from sgcl_cli.stages.tile.slide import tile_slide


def work(progress, job):
    with Path(job.config.out).with_name("begun").open("a") as log:
        log.write(job.entry.slide_id + "\\n")
    return tile_slide(progress, job)


if __name__ == "__main__":
    import sys
    import counted_work
    from sgcl_cli.config import TileConfig
    from sgcl_cli.stages.tile import tile
    outcome = tile(TileConfig.resolve(eval(sys.argv[1])), work=counted_work.work)
    print(len(outcome.data["slides"]), len(outcome.failures))
"""


def test_two_runs_at_the_same_time_share_the_work(tmp_path, inline):
    for number in range(6):
        write_slide(tmp_path / "in" / f"{number}.tif", seed=number)
    (tmp_path / "counted_work.py").write_text(COUNTED_WORK)
    settings = SETTINGS | {"slides": [str(tmp_path / "in")], "out": str(tmp_path / "out"), "workers": 1}
    path = os.pathsep.join([str(Path(stage.__file__).parents[3]), str(tmp_path), *sys.path])
    command = [sys.executable, str(tmp_path / "counted_work.py"), repr(settings)]
    runs = [
        subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0] for run in runs] == ["6 0\n", "6 0\n"]
    assert sorted((tmp_path / "begun").read_text().split()) == [str(number) for number in range(6)]
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    one, two = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name] or name in ("index.html", "run.json", "slides.csv"), name
    tables = [without_measures(rows_of(tmp_path / name / "slides.csv")) for name in ("whole", "out")]
    assert tables[0] == tables[1]


def test_sigterm_stops_the_command_and_the_same_command_completes_it(tmp_path, inline):
    for seed in range(4):
        write_slide(tmp_path / "in" / f"{seed}.tif", seed=seed)
    out = tmp_path / "out"
    words = ["tile", str(tmp_path / "in"), "--out", str(out), "--mpp", "2", "--patch-size", "64", "--workers", "1"]
    command = [sys.executable, "-m", "sgcl_cli", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(stage.__file__).parents[3]), *sys.path])}
    stopped = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(out.glob("patches/[!.]*.h5")) and time.monotonic() < end:
        time.sleep(0.01)
    stopped.terminate()
    said = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 143 and "run the same command again to go on" in said and "Traceback" not in said
    assert 1 <= len(list(out.glob("patches/[!.]*.h5"))) < 4 and not (out / "run.json").exists()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    one, two = tree(tmp_path / "whole"), tree(out)
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name] or name in ("index.html", "run.json", "slides.csv"), name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_worker_stays_as_large_over_hundreds_of_slides(tmp_path):
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    path = write_jpeg_slide(tmp_path / "a.tif")
    sizes = []
    for number in range(300):
        job = Job(Entry(f"{number}", path, "a.tif"), config(tmp_path / "out"))
        assert tile_slide(Progress(0), job).patches > 20
        sizes.append(resident())
    assert sizes[-1] - sizes[50] < 15


@pytest.mark.slow
def test_real_folder_of_vendor_files(tmp_path, real_data):
    outcome = tile(
        TileConfig.resolve({"slides": [real_data / "vendor"], "out": tmp_path / "out", "workers": 2}), Silent()
    )
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["cmu-1-small-region"]
    reasons = {failure.path: failure.reason for failure in outcome.failures}
    assert len(reasons) == 19
    assert "no resolution" in reasons["tcga-cr-7395-01a-01-ts1.svs"]
    assert "0.9872 um/px" in reasons["whole-slide-packer-example.tif"]
    assert "not a slide" in reasons["broken.svs"]
    assert "no resolution" in reasons["kidney-48-5.tif"]
    assert not any(str(real_data) in reason for reason in reasons.values())
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]


def test_a_scanner_at_twenty_times_works_at_half_a_micrometre(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif", mpp=0.53)
    outcome = tile(config(tmp_path / "out", path, mpp=0.5), Silent())
    (row,) = outcome.data["slides"]
    assert row["mpp_actual"] == 0.53 and row["patches"] > 20 and not outcome.warnings
    with pytest.raises(SlideError, match=r"level 0 is 0\.536 um/px, asked for 0\.5") as caught:
        tile(config(tmp_path / "other", write_slide(tmp_path / "b.tif", mpp=0.536), mpp=0.5), Silent())
    assert caught.value.hint == "use --mpp >= 0.536 or --allow-upsample"


def test_the_last_column_that_fits_exactly_is_tiled_with_its_pixels(tmp_path, inline):
    whole = tifffile.imread(write_slide(tmp_path / "a.tif"))
    pixels = np.ascontiguousarray(np.tile(whole[400:800, 400:800], (2, 9, 1))[:717, :3584])
    tags = {"resolution": (4e4, 4e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "b.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    settings = {"mpp": 0.7, "patch_size": 128, "min_tissue": 0.0, "jpeg_quality": 100}
    tile(config(tmp_path / "out", tmp_path / "b.tif", **settings), Silent())
    (made,) = PatchIndex.open(tmp_path / "out").files
    assert made.coords[:, 0].max() == 3226 and len(made) == 20 and not made.source["unreadable"]
    last = cv2.imdecode(np.frombuffer(made.read(9), np.uint8), 1)[..., ::-1].astype(int)
    expected = cv2.resize(pixels[:358, 3226:], (128, 128), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(last - expected).mean() < 6
