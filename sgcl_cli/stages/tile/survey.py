"""Dry run of one slide: the number of patches, and bounds of disk space and time from a sample of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

import cv2
import numpy as np

from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide import jpeg
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import bands, direct, lossless
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.stages.tile.job import PICTURE_QUALITY, Job, Row
from sgcl_cli.stages.tile.plan import PatchPlan, lay_out, open_slide, refuse_oblong_tiles

TRIED = 5  # patches of each slide in a dry run
_COLUMN_BYTES = 48  # of a patch, besides its pixels


@dataclass(frozen=True)
class Survey(Row):
    """A row with bounds of the disk space and time to tile the slide.

    :ivar least_bytes: on disk.
    :ivar most_bytes: on disk.
    :ivar least_seconds: of one worker.
    :ivar most_seconds: of one worker.
    :ivar untried: number of sampled patches that cannot be read.
    """

    least_bytes: int = 0
    most_bytes: int = 0
    least_seconds: float = 0.0
    most_seconds: float = 0.0
    untried: int = 0


def survey_slide(progress: Progress, job: Job) -> Survey:
    """Determine the patches of a slide and read a sample of them, one by one, in a worker process of a dry run.

    The bounds assume that all patches are like the smallest or largest, fastest or slowest, of the sample.

    :raises SlideError: the slide cannot be used.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config = job.config
    with open_slide(job) as slide, Threads(progress.share) as threads:
        plan = lay_out(slide, job, threads)
        pictures = sum(len(jpeg.encode(one, PICTURE_QUALITY)) for one in (plan.thumbnail.pixels, plan.overlay(slide)))
        before = time.perf_counter() - started
        sizes, seconds, untried = _try(slide, plan, config)
    count = len(plan.lattice)
    fixed = pictures + count * _COLUMN_BYTES
    return Survey(
        **{spec.name: getattr(plan.row, spec.name) for spec in fields(Row)},
        least_bytes=fixed + count * min(sizes, default=0),
        most_bytes=fixed + count * max(sizes, default=0),
        least_seconds=before + count * min(seconds, default=0.0),
        most_seconds=before + count * max(seconds, default=0.0),
        untried=untried,
    )


def _try(slide: Slide, plan: PatchPlan, config: TileConfig) -> tuple[list[int], list[float], int]:
    """Read and encode a sample of patches; returns bytes and seconds of each, and the number of those that cannot be read.

    :raises SlideError: none can be read, or ``--lossless`` is set and patches are not native tiles.
    """
    lattice, geometry = plan.lattice, plan.geometry
    if config.coords_only or not len(lattice):
        return [], [], 0
    if config.lossless:
        _check_lossless(slide, plan, config)
    sizes, seconds, failures = [], [], []
    for number in np.unique(np.linspace(0, len(lattice) - 1, min(TRIED, len(lattice))).astype(int)).tolist():
        begun = time.perf_counter()
        try:
            patch = slide.region(lattice.coords[number].tolist(), geometry.sides, (config.patch_size,) * 2)
        except SlideError as error:
            failures.append(error)
            continue
        sizes.append(len(jpeg.encode(patch, config.jpeg_quality)))
        seconds.append(time.perf_counter() - begun)
    if not sizes:
        raise failures[0]
    return sizes, seconds, len(failures)


def _check_lossless(slide: Slide, plan: PatchPlan, config: TileConfig) -> None:
    refuse_oblong_tiles(slide, plan.geometry)
    corners, patch = plan.lattice.coords, bands.Patch(plan.geometry.patch_size_level0, config.patch_size)
    with direct.opened(slide, corners, patch) as (source, _):
        lossless.checked(source, corners, patch)
