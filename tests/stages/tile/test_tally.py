from __future__ import annotations

import json

import pytest

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.slide import tile_slide
from tests.stages.tile.made import (
    config,
    rows_of,
    write_slide,
)


def test_mixed_resolutions_are_a_warning_not_a_failure(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif", mpp=2.0)
    write_slide(tmp_path / "in" / "b.tif", mpp=0.5)
    for number in (1, 2):
        outcome = tile(config(tmp_path / "out", tmp_path / "in", shard=f"{number}/2"), Silent())
        assert outcome.failures == outcome.warnings == []
    said = json.loads((tmp_path / "out" / "run.json").read_text())["result"]["warnings"]
    assert said == [
        "level 0 is 0.5 µm/px on some slides, 2 on others: patches have the same resolution, but not the same sharpness"
    ]
    assert said[0] in (tmp_path / "out" / "index.html").read_text()
    reporter = Silent()
    assert tile(config(tmp_path / "whole", tmp_path / "in"), reporter).warnings == said == reporter.warnings


def test_nothing_usable_is_an_error_and_its_files_stay(tmp_path, inline):
    blank = write_slide(tmp_path / "blank.tif", tissue=False)
    with pytest.raises(
        SlideError, match=r"none of 1 slides has a patch; the first, blank\.tif: no tissue found"
    ) as caught:
        tile(config(tmp_path / "out", blank), Silent())
    assert caught.value.exit_code == 1 and "--min-tissue" in caught.value.hint
    assert len(PatchFile.open(tmp_path / "out" / "patches" / "blank.h5")) == 0
    assert (tmp_path / "out" / "overlays" / "blank.jpg").exists() and (tmp_path / "out" / "run.json").exists()
    bad = [tmp_path / name for name in ("x.svs", "y.svs")]
    for path in bad:
        path.write_text("no slide")
    with pytest.raises(SlideError, match=r"^x\.svs is not a slide"):
        tile(config(tmp_path / "single", bad[0]), Silent())
    with pytest.raises(SlideError, match=r"none of 2 slides could be tiled; the first, x\.svs"):
        tile(config(tmp_path / "both", *bad), Silent())
    assert len(rows_of(tmp_path / "both" / "failures.csv")) == 2


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
