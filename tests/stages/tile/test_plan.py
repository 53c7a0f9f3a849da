from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.lattice import Geometry
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.plan import PatchPlan, lay_out, only, open_slide, refuse_oblong_tiles

MakeJob = Callable[..., Job]


def plan_of(job: Job) -> PatchPlan:
    with open_slide(job) as slide, Threads() as threads:
        return lay_out(slide, job, threads)


def test_patches_lie_on_the_lattice_where_there_is_tissue(make_job: MakeJob) -> None:
    plan = plan_of(make_job())
    assert plan.row.patches == len(plan.lattice) > 100 and plan.label is None
    assert not (plan.lattice.coords % 64).any()
    distance = np.hypot(*(plan.lattice.coords + 32 - 512).T)
    assert distance.max() < 440 and (distance < 100).sum() >= 4


def test_a_higher_share_of_tissue_gives_fewer_patches_and_a_reason_where_none_is_left(make_job: MakeJob) -> None:
    counts = [plan_of(make_job(min_tissue=share)).row.patches for share in (0.1, 0.5, 0.99)]
    assert counts[0] > counts[1] > counts[2]
    row = plan_of(make_job(patch_size=1024, min_tissue=1.0)).row
    assert (row.patches, row.reason) == (0, "no patch holds 100% tissue")


def test_the_id_follows_from_the_settings_and_the_table(make_job: MakeJob) -> None:
    job = make_job()
    first = plan_of(job).row.id
    assert plan_of(make_job(workers=3)).row.id == first
    assert plan_of(make_job(min_tissue=0.4)).row.id != first
    assert plan_of(replace(job, entry=replace(job.entry, ink="off"))).row.id != first


def test_patches_larger_than_the_slide_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(SlideError, match="a.tif: a patch covers 2048 x 2048 level-0 pixels") as caught:
        plan_of(make_job(patch_size=2048))
    assert caught.value.hint == "use a smaller --patch-size or --mpp"


def test_a_finer_resolution_than_the_slide_has_is_refused_unless_allowed(make_job: MakeJob) -> None:
    with pytest.raises(SlideError):
        plan_of(make_job(mpp=1.0))
    assert plan_of(make_job(mpp=1.0, allow_upsample=True)).row.mpp_actual == 2.0


def test_only_some_patches_are_counted_again(make_job: MakeJob) -> None:
    job = make_job()
    plan = plan_of(job)
    kept = np.zeros(len(plan.lattice), np.bool_)
    kept[[3, 7]] = True
    fewer = only(plan, kept, job)
    assert fewer.row.patches == 2
    assert fewer.lattice.coords.tolist() == plan.lattice.coords[[3, 7]].tolist()


def test_native_tiles_of_oblong_pixels_are_refused(make_job: MakeJob) -> None:
    with open_slide(make_job()) as slide:
        refuse_oblong_tiles(slide, Geometry(64, 0, 2.0, 2.0))
        with pytest.raises(SlideError, match="a.tif: its pixels are oblong") as caught:
            refuse_oblong_tiles(slide, Geometry(64, 0, 2.0, 2.0, 1.0))
    assert caught.value.hint == "leave out --lossless"
