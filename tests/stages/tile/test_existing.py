from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import ConfigError
from sgcl_cli.stages.tile.annotations import Drawings
from sgcl_cli.stages.tile.existing import remove_old, row_of, take_what_others_made, unfinished
from sgcl_cli.stages.tile.job import Job, Row, patches_path
from sgcl_cli.stages.tile.slide import tile_slide
from sgcl_cli.stages.tile.tally import SlideTally

MakeJob = Callable[..., Job]


@pytest.fixture
def tiled(make_job: MakeJob) -> tuple[Job, Row]:
    job = make_job(min_tissue=0.9)
    return job, tile_slide(Progress(0), job)


def left(job: Job, **settings: object) -> tuple[list[str], SlideTally]:
    tally = SlideTally()
    jobs = unfinished([job.entry], replace(job.config, **settings), Drawings(), tally)  # type: ignore[arg-type]
    return [*jobs], tally


def test_a_complete_slide_is_not_done_again(tiled: tuple[Job, Row]) -> None:
    job, row = tiled
    todo, tally = left(job)
    assert todo == [] and tally.skipped == 1 and not tally.failures
    assert asdict(tally.rows[0]) == asdict(row) | {"seconds": None, "peak_mib": None}
    assert left(job, overwrite=True)[0] == ["a"]


def test_the_row_of_a_file_is_that_of_its_making(tiled: tuple[Job, Row]) -> None:
    job, row = tiled
    assert row_of(PatchFile.open(patches_path(job.config, "a"))) == replace(row, seconds=None, peak_mib=None)


def test_other_settings_are_refused(tiled: tuple[Job, Row]) -> None:
    with pytest.raises(ConfigError, match="a.h5 was made under other settings: .*min") as caught:
        left(tiled[0], min_tissue=0.5)
    assert caught.value.hint == "use the same settings, another --out, or --overwrite"


def test_other_words_of_the_table_are_refused(tiled: tuple[Job, Row]) -> None:
    job, _ = tiled
    with pytest.raises(ConfigError, match="ink in --list was None, is off"):
        left(replace(job, entry=replace(job.entry, ink="off")))


def test_a_slide_that_has_changed_is_a_failure(tiled: tuple[Job, Row], write_disc: Callable[..., Path]) -> None:
    job, _ = tiled
    write_disc("a", tissue=False)
    todo, tally = left(job)
    (failure,) = tally.failures
    assert todo == [] and failure.reason == "a.tif has changed since it was tiled" and not tally.rows
    assert failure.hint == "use --overwrite to tile it again"


def test_a_damaged_file_of_patches_is_a_failure(tiled: tuple[Job, Row]) -> None:
    job, _ = tiled
    patches_path(job.config, "a").write_bytes(b"no HDF5")
    (failure,) = left(job)[1].failures
    assert failure.slide_id == "a" and failure.hint == "use --overwrite to make it again"


def test_an_output_holds_one_folder_of_patches(tiled: tuple[Job, Row]) -> None:
    with pytest.raises(ConfigError, match="holds patches in patches, made in another layout"):
        left(tiled[0], layout="trident")


def test_what_another_run_has_made_is_no_failure(tiled: tuple[Job, Row]) -> None:
    job, _ = tiled
    tally = SlideTally(failures=[Failure("a", "a.tif", "lost", ""), Failure("z", "z.tif", "lost", "")])
    take_what_others_made({"a": job}, job.config, Drawings(), tally)
    assert [failure.slide_id for failure in tally.failures] == ["z"] and [row.slide_id for row in tally.rows] == ["a"]


def test_old_patches_are_removed(tiled: tuple[Job, Row]) -> None:
    job, _ = tiled
    remove_old(job.config, ["a", "never"])
    assert not patches_path(job.config, "a").exists()
