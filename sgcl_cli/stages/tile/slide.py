"""Tiling of one slide in a worker process.

Pictures are written first and the file of patches last, so a slide with a file of patches is complete.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import cv2

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.artefacts.results import peak_memory_mib
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.slide import jpeg, overlay
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.stages.tile.attributes import finish
from sgcl_cli.stages.tile.job import PICTURE_QUALITY, Job, Row, patches_path
from sgcl_cli.stages.tile.plan import PatchPlan, lay_out, only, open_slide
from sgcl_cli.stages.tile.reading import read_patches


def tile_slide(progress: Progress, job: Job) -> Row:
    """Tile one slide in a worker process.

    :raises SlideError: the slide cannot be used.
    :raises ArtefactError: its files cannot be written.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config = job.config
    with open_slide(job) as slide, Threads(progress.share) as threads:
        plan = lay_out(slide, job, threads)
        progress.expect(0 if config.coords_only else len(plan.lattice))
        with PatchWriter(patches_path(config, plan.row.slide_id)) as writer:
            reading = read_patches(writer, slide, plan, config=config, progress=progress, threads=threads)
            if reading.unreadable:
                plan = only(plan, reading.readable, job)
            coarsest = max(plan.row.mpp_actual, reading.mpp)
            plan = replace(plan, row=replace(plan.row, unreadable=len(reading.unreadable), mpp_actual=coarsest))
            _write_pictures(plan, slide, job)
            finish(writer, slide, job, plan, reading)
    return replace(plan.row, seconds=round(time.perf_counter() - started, 3), peak_mib=peak_memory_mib()["process"])


def _write_pictures(plan: PatchPlan, slide: Slide, job: Job) -> None:
    """Write the thumbnail, the overlay and the contours of a slide."""
    config, out, slide_id = job.config, Path(job.config.out), plan.row.slide_id
    pixels = plan.thumbnail.pixels
    store.write_bytes(out / "thumbnails" / f"{slide_id}.jpg", jpeg.encode(pixels, PICTURE_QUALITY))
    store.write_bytes(out / "overlays" / f"{slide_id}.jpg", jpeg.encode(plan.overlay(slide), PICTURE_QUALITY))
    if job.drawn.coords is None and not _is_given(out / "contours", config):
        origin = (0, 0) if slide.bounds is None else slide.bounds.corner
        contours = overlay.outlines(plan.found.tissue, plan.thumbnail.scale, origin)
        store.write_text(out / "contours" / f"{slide_id}.geojson", json.dumps(contours, separators=(",", ":")))


def _is_given(contours: Path, config: TileConfig) -> bool:
    """Whether the folder of contours is the one given with ``--roi``, so that its files belong to the user."""
    return config.roi is not None and contours.exists() and contours.samefile(config.roi)
