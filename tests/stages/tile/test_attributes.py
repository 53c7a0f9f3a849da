from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import h5py
import pytest

from sgcl_cli.engine.pool import Progress
from sgcl_cli.stages.tile.job import Job, Row, patches_path
from sgcl_cli.stages.tile.slide import tile_slide

MakeJob = Callable[..., Job]


def written(job: Job) -> tuple[Row, dict[str, Any], dict[str, Any], set[str]]:
    """The row, the attributes of the file and of its coordinates, and the names of its columns, as h5py reads them."""
    row = tile_slide(Progress(0), job)
    with h5py.File(patches_path(job.config, "a")) as file:
        return row, dict(file.attrs), dict(file["coords"].attrs), {*file}


def test_the_file_records_its_slide(make_job: MakeJob) -> None:
    job = make_job()
    row, attributes, _, _ = written(job)
    assert (attributes["slide_id"], attributes["id"]) == ("a", row.id)
    source, status = json.loads(attributes["source"]), job.entry.path.stat()
    assert (source["name"], source["bytes"], source["modified_ns"]) == ("a.tif", status.st_size, status.st_mtime_ns)
    assert (source["identity"], source["tissue_mm2"], source["bounds"]) == (row.identity, row.tissue_mm2, None)
    assert json.loads(attributes["config"])["patch_size"] == 64


def test_coordinates_say_what_peers_look_for(make_job: MakeJob) -> None:
    _, _, coords, _ = written(make_job(overlap=16))
    assert (coords["patch_size"], coords["overlap"], coords["stride"]) == (64, 16, 48)
    assert (coords["patch_size_level0"], coords["level0_width"], coords["level0_height"]) == (64, 1024, 1024)
    assert (coords["mpp_target"], coords["mpp_level0"], coords["name"]) == (2.0, pytest.approx(2.0), "a")


def test_the_layout_of_clam_counts_in_pixels_of_a_level(make_job: MakeJob) -> None:
    _, attributes, coords, _ = written(make_job(layout="clam"))
    assert json.loads(attributes["source"])["layout"] == "clam"
    assert (coords["patch_level"], coords["patch_size"]) == (0, 64) and "stride" not in coords


def test_blur_is_measured_only_where_pixels_are_read(make_job: MakeJob) -> None:
    assert {"blur", "pen"} <= written(make_job())[3]
    columns = written(make_job(coords_only=True, out=f"{make_job().config.out}-coords"))[3]
    assert "pen" in columns and "blur" not in columns
