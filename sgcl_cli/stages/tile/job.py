"""The work on one slide, the row of slides.csv that comes of it, and where its patches lie."""

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
    """What a worker needs to tile one slide."""

    entry: Entry
    config: TileConfig
    drawn: Drawn = field(default_factory=Drawn)


@dataclass(frozen=True)
class Row:
    """One slide in slides.csv: width and height in level-0 pixels, resolutions in um per pixel.

    ``mpp`` is level 0's, across the slide, ``mpp_y`` down it: another one where pixels are oblong.
    ``unreadable`` patches could not be decoded and are left out, as are ``overhanging`` ones of a peer's
    coordinate file; ``path`` in the source of the patches file says how it was read.
    ``ink_mm2`` is the area of pen marks, which is no tissue; None where they are not looked for.
    ``tissue_preset`` is what tissue was told by, "" where a region of interest stands for it or nothing was looked for.
    ``bounds`` is the part that was scanned, as x y width height in level-0 pixels, where the slide records one.
    ``remarks`` is what the slide's file says of itself that does not count, or what makes it doubtful.
    ``labels`` counts the patches of each class that occurs. ``seconds`` and ``peak_mib`` (of the worker so far) belong to the
    run that made the file.
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
    """How many patches each class has, of those that occur; label -1 counts nowhere."""
    counts = np.bincount(label[label >= 0], minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def spoken_bounds(bounds: Sequence[int] | None) -> str:
    """The scanned part as slides.csv has it; "" where the slide records none."""
    return "" if bounds is None else " ".join(map(str, bounds))


def patches_path(config: TileConfig, slide_id: str) -> Path:
    """Where a slide's patches lie in the output."""
    folder = layout.patches_folder(
        Path(config.out),
        config.layout,
        mpp=config.mpp,
        patch_size=config.patch_size,
        overlap=config.overlap,
    )
    return layout.patches_file(folder, config.layout, slide_id)


def workers_of(config: TileConfig) -> int:
    """Worker processes of a run: as asked, else one a CPU."""
    if config.workers is not None:
        return config.workers
    return cores()
