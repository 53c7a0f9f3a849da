from __future__ import annotations

import pytest

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.progress import Silent, Task
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    config,
    write_jpeg_slide,
    write_slide,
)


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


def test_a_dry_run_goes_on_where_a_patch_that_it_tries_cannot_be_read(tmp_path, inline):
    whole, broken = write_jpeg_slide(tmp_path / "whole.tif"), write_jpeg_slide(tmp_path / "broken.tif", 4, 5, 6, 7)
    settings = {"patch_size": 256, "dry_run": True}
    outcome = tile(config(tmp_path / "out", whole, broken, **settings), Silent())
    assert outcome.failures == []
    (warning,) = outcome.warnings
    assert "broken.tif: " in warning and "of the sampled patches cannot be read and would be left out" in warning
    survey = outcome.data["slides"][0]
    assert survey["slide_id"] == "broken" and 0 < survey["least_bytes"] < survey["most_bytes"]


class Named(Silent):
    """Records the names of the bars."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def task(self, name: str, total: int | None, unit: str) -> Task:
        self.names.append(f"{name} of {total}")
        return super().task(name, total, unit)


def test_a_dry_run_has_a_bar_of_slides_and_none_of_patches(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    dry, real = Named(), Named()
    tile(config(tmp_path / "out", tmp_path / "in", dry_run=True), dry)
    tile(config(tmp_path / "out", tmp_path / "in"), real)
    assert dry.names == ["slides of 1"] and real.names == ["slides of 1", "patches of None"]
