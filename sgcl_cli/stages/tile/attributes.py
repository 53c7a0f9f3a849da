"""Columns and attributes of a file of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import peers
from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.slide.lattice import Geometry, shares
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.plan import PatchPlan
from sgcl_cli.stages.tile.reading import ReadingResult


def finish(writer: PatchWriter, slide: Slide, job: Job, plan: PatchPlan, reading: ReadingResult) -> None:
    """Write the columns and the attributes after the patches, which completes the file."""
    row, lattice, status = plan.row, plan.lattice, job.entry.path.stat()
    writer.finish(
        coords=lattice.coords,
        grid=lattice.grid,
        tissue=lattice.tissue,
        label=plan.label,
        shares=_shares(plan, slide.size, reading),
        attributes={
            "id": row.id,
            "slide_id": row.slide_id,
            "config": job.config.affecting(),
            "source": {
                "name": row.path,
                "bytes": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "identity": row.identity,
                **{f"given_{name}": value for name, value in job.entry.given.items()},
                "tissue_preset": row.tissue_preset,
                "mpp_source": row.mpp_source,
                "level": row.level,
                "tissue_mm2": row.tissue_mm2,
                "ink_mm2": row.ink_mm2,
                "remarks": row.remarks,
                "bounds": None if slide.bounds is None else list(slide.bounds),
                **job.drawn.as_source(),
                "path": reading.path,
                "path_why": reading.why,
                "unreadable": reading.unreadable,
                "overhanging": row.overhanging,
                **({"layout": "clam"} if job.config.layout == "clam" else {}),
            },
            "reason": row.reason,
            **({} if plan.label is None else {"label_names": job.drawn.names}),
        },
        coords_attributes=_coords_attributes(slide, job, row, plan.geometry),
        pixels=not job.config.coords_only,
    )


def _shares(plan: PatchPlan, size: tuple[int, int], reading: ReadingResult) -> dict[str, NDArray[np.float32]]:
    """Optional columns: share under pen marks on the thumbnail, blur, and share of the label's class."""
    found = {"pen": shares(plan.found.pen, size, plan.geometry, plan.lattice)}
    if reading.blur is not None:
        found["blur"] = reading.blur
    return found if plan.labels is None else found | {"label_share": plan.labels.share}


def _coords_attributes(slide: Slide, job: Job, row: Row, geometry: Geometry) -> dict[str, Any]:
    """Attributes that TRIDENT and CLAM read, left out if they could not be correct, and the exact resolution."""
    config, chosen = job.config, job.drawn.coords is None
    attributes: dict[str, Any] = {
        "name": row.slide_id,
        "savetodir": "patches",
        "save_path": "patches",
        "level0_width": row.width,
        "level0_height": row.height,
        "mpp_target": config.mpp,
        "mpp_actual": row.mpp_actual,
    }
    if chosen and config.layout != "clam":
        attributes |= {"overlap": config.overlap, "stride": config.patch_size - config.overlap}
    if not geometry.square:
        return attributes | {
            "patch_size": config.patch_size,
            peers.EXACT: np.array(geometry.sides),
            **({"stride0_xy": np.array(geometry.strides)} if chosen else {}),
            "mpp_level0_xy": np.array(slide.mpps),
        }
    attributes |= {"mpp_level0": slide.mpp, **({"stride0": geometry.stride_level0} if chosen else {})}
    level = peers.Level(row.level, slide.level_sizes[row.level], slide.downsamples[row.level])
    if config.layout == "clam":
        return attributes | peers.of_level(geometry.patch_size_level0, slide.mpp, level)
    return attributes | peers.square(geometry.patch_size_level0, config.patch_size, slide.mpp, level)
