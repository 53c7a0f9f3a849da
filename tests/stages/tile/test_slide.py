from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.slide import tile_slide

MakeJob = Callable[..., Job]


def test_a_slide_becomes_patches_and_three_pictures(make_job: MakeJob) -> None:
    job = make_job()
    row = tile_slide(Progress(0), job)
    out = Path(job.config.out)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["contours/a.geojson", "overlays/a.jpg", "patches/a.h5", "thumbnails/a.jpg"]
    assert row.patches > 100 and row.tissue_mm2 == pytest.approx(np.pi * 0.816**2, rel=0.05)
    assert row.seconds is not None and row.seconds > 0 and row.peak_mib is not None and row.peak_mib > 10


def test_the_file_has_the_patches_of_the_row(make_job: MakeJob) -> None:
    job = make_job()
    row = tile_slide(Progress(0), job)
    with h5py.File(Path(job.config.out) / "patches" / "a.h5") as file:
        coords = file["coords"][:]
    assert len(coords) == row.patches and not (coords % 64).any()
    centres = coords + 32 - 512
    assert np.hypot(*centres.T).max() < 410 + 32


def test_contours_enclose_the_tissue(make_job: MakeJob) -> None:
    job = make_job()
    tile_slide(Progress(0), job)
    features = json.loads((Path(job.config.out) / "contours" / "a.geojson").read_text())["features"]
    ring = np.concatenate([np.array(feature["geometry"]["coordinates"][0]) for feature in features]) - 512
    assert np.hypot(*ring.T).max() == pytest.approx(408, abs=20)


def test_glass_has_pictures_and_a_reason(make_job: MakeJob) -> None:
    job = make_job(tissue=False)
    row = tile_slide(Progress(0), job)
    assert (row.patches, row.reason) == (0, "no tissue found")
    with Image.open(Path(job.config.out) / "overlays" / "a.jpg") as image:
        assert min(image.size) > 100


def test_a_damaged_slide_leaves_no_file_of_patches(make_job: MakeJob) -> None:
    job = make_job()
    job.entry.path.write_bytes(job.entry.path.read_bytes()[:1000])
    with pytest.raises(SlideError):
        tile_slide(Progress(0), job)
    assert not Path(job.config.out).exists()
