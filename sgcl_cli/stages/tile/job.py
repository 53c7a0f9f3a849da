"""The job of tiling one slide, its row in slides.csv, and the path of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.processes import cores
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile.annotations import Drawn

PICTURE_QUALITY = 85


@dataclass(frozen=True)
class Job:
    """The arguments of a worker for one slide."""

    entry: Entry
    config: TileConfig
    drawn: Drawn = field(default_factory=Drawn)


@dataclass(frozen=True)
class Row:
    """One slide in slides.csv.

    :ivar slide_id: id of the slide.
    :ivar path: of the slide, relative to the input.
    :ivar patches: number of patches.
    :ivar unreadable: number of patches that could not be decoded and are left out.
    :ivar overhanging: number of patches of a coordinate file that extend beyond the slide and are left out.
    :ivar reason: why there are no patches; "" if there are.
    :ivar width: of level 0, pixels.
    :ivar height: of level 0, pixels.
    :ivar mpp: horizontal resolution of level 0, µm per pixel.
    :ivar mpp_y: vertical resolution of level 0, µm per pixel.
    :ivar mpp_source: source of the resolution.
    :ivar mpp_actual: resolution of the detail in the patches, µm per pixel.
    :ivar level: the level that is read.
    :ivar tissue_mm2: area of tissue; None if it was not detected.
    :ivar identity: of the slide's files.
    :ivar id: of the file of patches.
    :ivar tissue_preset: preset of tissue detection; "" if a region of interest replaces it, or tissue was not detected.
    :ivar ink_mm2: area of pen marks; None if they were not detected.
    :ivar bounds: scanned part as x y width height, level-0 pixels; "" if the slide records none.
    :ivar remarks: messages on records of the slide that are wrong or doubtful.
    :ivar labels: number of patches of each class that occurs; None without annotations.
    :ivar seconds: time of the run that made the file.
    :ivar peak_mib: peak memory of the worker in that run.
    """

    slide_id: str
    path: str
    patches: int
    unreadable: int
    overhanging: int
    reason: str
    width: int
    height: int
    mpp: float
    mpp_y: float
    mpp_source: str
    mpp_actual: float
    level: int
    tissue_mm2: float | None
    identity: str
    id: str = ""
    tissue_preset: str = ""
    ink_mm2: float | None = None
    bounds: str = ""
    remarks: str = ""
    labels: dict[str, int] | None = None
    seconds: float | None = None
    peak_mib: float | None = None


def class_counts(label: NDArray[np.int16], names: Sequence[str]) -> dict[str, int]:
    """Number of patches of each class that occurs, without label -1."""
    counts = np.bincount(label[label >= 0], minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def bounds_text(bounds: Sequence[int] | None) -> str:
    """The scanned part as in slides.csv; "" if the slide records none."""
    return "" if bounds is None else " ".join(map(str, bounds))


def patches_path(config: TileConfig, slide_id: str) -> Path:
    """The path of a slide's file of patches in the output."""
    folder = layout.patches_folder(
        Path(config.out),
        config.layout,
        mpp=config.mpp,
        patch_size=config.patch_size,
        overlap=config.overlap,
    )
    return layout.patches_file(folder, config.layout, slide_id)


def workers_of(config: TileConfig) -> int:
    """Number of worker processes: ``--workers``, else one per CPU."""
    if config.workers is not None:
        return config.workers
    return cores()
