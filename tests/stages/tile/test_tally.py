from __future__ import annotations

from collections.abc import Callable

import pytest

from sgcl_cli.artefacts.results import RunRecord
from sgcl_cli.engine.pool import Lost, Result
from sgcl_cli.errors import ArtefactError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile.annotations import Drawings
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.tally import (
    SlideTally,
    count,
    mixed_resolutions,
    outcome_of,
    refuse_nothing,
    set_refused_aside,
    shortcomings_of,
)

MakeJob = Callable[..., Job]
MakeRow = Callable[..., Row]


def counted(job: Job, **result: object) -> tuple[SlideTally, list[str]]:
    tally, reporter = SlideTally(), Silent()
    count(Result("a", **result), job, tally, reporter)  # type: ignore[arg-type]
    assert tally.warnings == reporter.warnings
    return tally, tally.warnings


def test_a_slide_that_was_tiled_is_a_row(make_job: MakeJob, make_row: MakeRow) -> None:
    tally, warnings = counted(make_job(), value=make_row())
    assert tally.rows == [make_row()] and not tally.failures and not warnings


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (SlideError("it is\n damaged", "scan again"), "it is damaged", "scan again"),
        (Lost("killed by signal 9"), "given up after two attempts: killed by signal 9", "fewer --workers"),
        (ValueError("odd"), "unexpected ValueError: odd", "please report this defect"),
    ],
)
def test_an_error_costs_its_slide(make_job: MakeJob, error: object, reason: str, hint: str) -> None:
    tally, warnings = counted(make_job(), error=error)
    (failure,) = tally.failures
    assert (failure.slide_id, failure.path, failure.reason) == ("a", "a.tif", reason) and hint in failure.hint
    assert bool(warnings) is isinstance(error, ValueError)


def test_an_output_that_cannot_be_written_ends_the_run(make_job: MakeJob) -> None:
    with pytest.raises(ArtefactError, match="disk full"):
        counted(make_job(), error=ArtefactError("disk full", "make room"))


def test_slides_without_what_they_need_become_failures(make_job: MakeJob) -> None:
    jobs, tally = {"a": make_job("a"), "b": make_job("b")}, SlideTally()
    set_refused_aside(jobs, Drawings(refused={"b": SlideError("no file", "make one"), "z": SlideError("", "")}), tally)
    assert [*jobs] == ["a"]
    assert [(failure.slide_id, failure.reason, failure.hint) for failure in tally.failures] == [
        ("b", "no file", "make one")
    ]


def test_resolutions_that_differ_much_are_mixed(make_row: MakeRow) -> None:
    def said(*mpps: float) -> str:
        return mixed_resolutions([make_row(mpp=mpp) for mpp in mpps])

    assert said() == said(0.25, 0.375) == ""
    assert said(0.5, 0.25, 0.25).startswith("level 0 is 0.25 um/px on some slides, 0.5 on others")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"ink_mm2": 0.015}, ""),
        ({"ink_mm2": 0.1}, "a.svs: 0.10 mm2 are taken for ink (1.50 mm2 for tissue)"),
        ({"unreadable": 3}, "a.svs: 3 of 123 patches cannot be read and are left out"),
        ({"remarks": "scanned twice", "overhanging": 2}, "a.svs: scanned twice; 2 patches of its coordinate file hang"),
        ({"mpp_actual": 2.2}, "a.svs: level 0 is 2.2 um/px, so patches at 2 hold less detail"),
    ],
)
def test_shortcomings_of_a_slide(make_job: MakeJob, make_row: MakeRow, changes: dict[str, object], said: str) -> None:
    found = shortcomings_of(make_row(**changes), make_job().config)
    assert found.startswith(said) and bool(found) is bool(said)


def test_the_closing_table_counts_slides_and_patches(make_job: MakeJob, make_row: MakeRow) -> None:
    config = make_job().config
    tally = SlideTally([make_row("a"), make_row("b", patches=0, unreadable=5, peak_mib=300.4)], skipped=1)
    outcome = outcome_of(config, tally, 3, RunRecord("tile", config))
    table = dict(outcome.headline)
    assert (table["slides"], table["patches"], table["unreadable patches"]) == ("2 of 3, 1 from before", "120", "5")
    assert (table["without patches"], table["failed"], table["peak memory of a worker"]) == ("1", "0", "300 MiB")
    assert outcome.data["patches"] == 120 and outcome.total == 3


def test_a_run_without_a_patch_is_an_error(make_job: MakeJob, make_row: MakeRow) -> None:
    refuse_nothing(SlideTally([make_row()]), 1)
    with pytest.raises(SlideError, match="none of 1 slides gave a patch; first a.svs: no tissue found") as caught:
        refuse_nothing(SlideTally([make_row(patches=0, reason="no tissue found")]), 1)
    assert "look at the overlays" in str(caught.value.hint)
    tally, _ = counted(make_job(), error=SlideError("it is damaged", "scan again"))
    with pytest.raises(SlideError, match="none of 2 slides could be tiled; first a.tif: it is damaged") as caught:
        refuse_nothing(tally, 2)
    assert caught.value.hint == "scan again"
