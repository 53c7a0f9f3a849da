from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.slide import tile_slide
from sgcl_cli.stages.tile.survey import survey_slide

MakeJob = Callable[..., Job]


def test_a_survey_finds_the_patches_that_tiling_finds_and_writes_nothing(make_job: MakeJob) -> None:
    job = make_job()
    survey = survey_slide(Progress(0), job)
    assert not Path(job.config.out).exists()
    row = tile_slide(Progress(0), job)
    measured = {"seconds", "peak_mib"}
    assert all(
        getattr(survey, spec.name) == getattr(row, spec.name) for spec in fields(Row) if spec.name not in measured
    )


def test_bounds_hold_what_tiling_writes(make_job: MakeJob) -> None:
    job = make_job()
    survey = survey_slide(Progress(0), job)
    tile_slide(Progress(0), job)
    out = Path(job.config.out)
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert 0 < survey.least_bytes <= survey.most_bytes
    assert 0.5 * survey.least_bytes < written < 2 * survey.most_bytes
    assert 0 < survey.least_seconds <= survey.most_seconds and survey.untried == 0


def test_coordinates_alone_take_no_more_than_their_columns(make_job: MakeJob) -> None:
    whole, alone = survey_slide(Progress(0), make_job()), survey_slide(Progress(0), make_job(coords_only=True))
    assert alone.patches == whole.patches and alone.least_bytes == alone.most_bytes < whole.least_bytes


def test_patches_that_cannot_be_read_are_counted_and_all_of_them_refuse_the_slide(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, calls = Slide.region, [0]

    def failing(most: int) -> Callable[..., object]:
        def read(self: Slide, *arguments: object) -> object:
            calls[0] += 1
            if calls[0] <= most:
                raise SlideError("tile 7 is damaged", "scan again")
            return region(self, *arguments)  # type: ignore[arg-type]

        return read

    monkeypatch.setattr(Slide, "region", failing(2))
    assert survey_slide(Progress(0), make_job(ink="off")).untried == 2
    calls[0] = 0
    monkeypatch.setattr(Slide, "region", failing(1000))
    with pytest.raises(SlideError, match="tile 7 is damaged"):
        survey_slide(Progress(0), make_job(ink="off"))
