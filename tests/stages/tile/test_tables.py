from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sgcl_cli.artefacts.results import Failure, RunRecord
from sgcl_cli.engine.pool import Progress
from sgcl_cli.stages.tile.annotations import Drawings
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.slide import tile_slide
from sgcl_cli.stages.tile.tables import close
from sgcl_cli.stages.tile.tally import SlideTally, outcome_of

MakeJob = Callable[..., Job]


def closed(job: Job, tally: SlideTally, slide_ids: set[str]) -> Path:
    record = RunRecord("tile", job.config)
    out = Path(job.config.out)
    close(out, job.config, Drawings(), tally, slide_ids, outcome_of(job.config, tally, len(slide_ids), record), record)
    return out


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def tiled(make_job: MakeJob) -> tuple[Job, Row]:
    job = make_job(min_tissue=0.9)
    return job, tile_slide(Progress(0), job)


def test_rows_failures_and_record_are_written(tiled: tuple[Job, Row]) -> None:
    job, row = tiled
    failure = Failure("z", "z.tif", "it is damaged", "scan again")
    out = closed(job, SlideTally([row], [failure], ["resolutions differ"]), {"a", "z"})
    (written,) = read(out / "slides.csv")
    assert (written["slide_id"], written["patches"], written["id"]) == ("a", str(row.patches), row.id)
    assert [line["slide_id"] for line in read(out / "failures.csv")] == ["z"]
    run = json.loads((out / "run.json").read_text())
    assert run["inputs"] == {"a.tif": row.identity} and run["result"]["patches"] == row.patches
    assert run["result"]["warnings"] == ["resolutions differ"] and "it is damaged" in (out / "index.html").read_text()
    assert not [*out.glob(".part-*")]


def test_slides_of_other_runs_stay_in_the_tables(tiled: tuple[Job, Row], make_job: MakeJob) -> None:
    other = make_job("b", min_tissue=0.9)
    tile_slide(Progress(0), other)
    job, row = tiled
    out = closed(job, SlideTally([row]), {"a"})
    assert [line["slide_id"] for line in read(out / "slides.csv")] == ["a", "b"]


def test_seconds_of_an_earlier_run_are_kept(tiled: tuple[Job, Row], make_job: MakeJob) -> None:
    job, row = tiled
    closed(job, SlideTally([row]), {"a"})
    other = make_job("b", min_tissue=0.9)
    out = closed(other, SlideTally([tile_slide(Progress(0), other)]), {"b"})
    assert {line["slide_id"]: line["seconds"] for line in read(out / "slides.csv")}["a"] == str(row.seconds)


def test_files_of_other_settings_are_left_out(tiled: tuple[Job, Row], make_job: MakeJob) -> None:
    job, _ = tiled
    tile_slide(Progress(0), make_job("b", min_tissue=0.2))
    out = closed(job, SlideTally(), {"a"})
    assert [line["slide_id"] for line in read(out / "slides.csv")] == ["a"]
