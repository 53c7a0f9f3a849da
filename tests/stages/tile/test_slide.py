from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import ArtefactError, ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile import tile
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.slide import tile_slide
from tests.stages.tile.made import (
    SIDE,
    config,
    rows_of,
    write_jpeg_slide,
    write_slide,
)


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
    """Evenly dense on the thumbnail, nothing but cells at 2 µm per pixel."""
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
        assert [text for text in outcome.warnings if "not reduced copies" in text] == (
            [f"padded.tif: {rows_of(tmp_path / name / 'slides.csv')[0]['remarks']}"] if pad else []
        )
    (plain,), (padded,) = (PatchIndex.open(tmp_path / name).files for name in ("plain", "padded"))
    assert np.array_equal(plain.coords, padded.coords) and len(plain) >= 4
    for row in range(len(plain)):
        one, other = (cv2.imdecode(np.frombuffer(file.read(row), np.uint8), 1).astype(int) for file in (plain, padded))
        assert np.abs(one - other).mean() < 2
    assert "not reduced copies" in (tmp_path / "padded" / "index.html").read_text()


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
    warnings = [text for text in outcome.warnings if "at the given" in text]
    assert len(warnings) == doubted and all("check --slide-mpp" in text for text in warnings)


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
    with pytest.raises(SlideError, match=r"level 0 is 2\.08 µm/px, asked for 1\.9"):
        tile(config(tmp_path / "strict", path, mpp=1.9), Silent())
    reporter = Silent()
    outcome = tile(config(tmp_path / "consent", path, mpp=1.0, allow_upsample=True), reporter)
    assert outcome.warnings == reporter.warnings and "2.08 µm/px" in outcome.warnings[0]


def test_a_scanner_at_twenty_times_works_at_half_a_micrometre(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif", mpp=0.53)
    outcome = tile(config(tmp_path / "out", path, mpp=0.5), Silent())
    (row,) = outcome.data["slides"]
    assert row["mpp_actual"] == 0.53 and row["patches"] > 20 and not outcome.warnings
    with pytest.raises(SlideError, match=r"level 0 is 0\.536 µm/px, asked for 0\.5") as caught:
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
