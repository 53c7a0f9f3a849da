from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.errors import ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    config,
    rows_of,
    tree,
    write_slide,
)


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
