"""What happens to one slide in a worker: laid out, read, encoded, written.

A slide's pictures are written first, its file of patches last, so a slide whose file exists is complete.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.slide import jpeg, overlay
from sgcl_cli.slide.annotations.outlines import Labels
from sgcl_cli.slide.lattice import Geometry, Lattice
from sgcl_cli.slide.lattice import shares as lattice_shares
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.slide.tissue.tissue import Segmentation
from sgcl_cli.stages.tile.attributes import finish
from sgcl_cli.stages.tile.job import PICTURE_QUALITY, Job, Row, patches_path
from sgcl_cli.stages.tile.plan import counted, labels_of, lay_out, open_slide
from sgcl_cli.stages.tile.reading import Reading, read_patches


def tile_slide(progress: Progress, job: Job) -> Row:
    """Tile one slide; what ``tile`` does in each worker.

    :raises SlideError: the slide cannot be used.
    :raises ArtefactError: its files cannot be written.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config, out = job.config, Path(job.config.out)
    with open_slide(job) as slide, Threads(progress.share) as threads:
        row, geometry, thumbnail, found, lattice, labels = lay_out(slide, job, threads)
        progress.expect(0 if config.coords_only else len(lattice))
        with PatchWriter(patches_path(config, row.slide_id)) as writer:
            reading = read_patches(writer, slide, lattice, geometry, config, progress, threads)
            if reading.unreadable:
                lattice = lattice.where(reading.readable)
                labels = labels_of(slide, job, lattice, geometry)
            row = replace(
                counted(row, job, found.tissue, lattice, labels),
                unreadable=len(reading.unreadable),
                mpp_actual=max(row.mpp_actual, reading.mpp),
            )
            label = None if labels is None else labels.label
            picture = overlay.draw(thumbnail.pixels, found.tissue, lattice, geometry.sides, thumbnail.scale, label)
            contours = json.dumps(overlay.outlines(found.tissue, thumbnail.scale), separators=(",", ":"))
            store.write_bytes(
                out / "thumbnails" / f"{row.slide_id}.jpg", jpeg.encode(thumbnail.pixels, PICTURE_QUALITY)
            )
            store.write_bytes(out / "overlays" / f"{row.slide_id}.jpg", jpeg.encode(picture, PICTURE_QUALITY))
            if job.drawn.coords is None and not _is_given(out / "contours", config):
                store.write_text(out / "contours" / f"{row.slide_id}.geojson", contours)
            shares = _shares(found, slide.size, geometry, lattice, labels, reading)
            finish(writer, slide, job, row, geometry, lattice, reading, label, shares)
    return replace(row, seconds=round(time.perf_counter() - started, 3), peak_mib=_peak_mib())


def _is_given(contours: Path, config: TileConfig) -> bool:
    """Whether the folder of contours is the one of regions of interest: what is in it is the user's then."""
    return config.roi is not None and contours.exists() and contours.samefile(config.roi)


def _shares(
    found: Segmentation,
    size: tuple[int, int],
    geometry: Geometry,
    lattice: Lattice,
    labels: Labels | None,
    reading: Reading,
) -> dict[str, NDArray[np.float32]]:
    """The optional numbers of each patch: under pen as the thumbnail shows it, and what was measured on its pixels."""
    shares = {"pen": lattice_shares(found.pen, size, geometry, lattice)}
    if reading.blur is not None:
        shares["blur"] = reading.blur
    return shares if labels is None else shares | {"label_share": labels.share}


def _peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
