"""A small slide with a disc of tissue, and the job of tiling it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from sgcl_cli.config import TileConfig
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile.annotations import Drawn
from sgcl_cli.stages.tile.job import Job, Row

WriteDisc = Callable[..., Path]
MakeJob = Callable[..., Job]
MakeRow = Callable[..., Row]


@pytest.fixture
def write_disc(tmp_path: Path) -> WriteDisc:
    """A function that writes 1024 x 1024 pixels at 2 µm with a disc of textured tissue, about 1.3 mm²."""

    def write(slide_id: str = "a", tissue: bool = True) -> Path:
        random = np.random.default_rng(0)
        rows, columns = np.indices((256, 256)) - 128
        texture = 1 + cv2.GaussianBlur(random.normal(0, 1, rows.shape), (0, 0), 1.0)[..., None]
        inside = (np.hypot(rows, columns) < 102)[..., None] & tissue
        image = 240 * np.exp(-np.where(inside, np.array([0.4, 0.8, 0.3]) * np.clip(texture, 0.1, 3), 0))
        pixels = np.rint(image).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        path = tmp_path / "slides" / f"{slide_id}.tif"
        path.parent.mkdir(exist_ok=True)
        tags: dict[str, Any] = {"resolution": (5e3, 5e3), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
        return path

    return write


@pytest.fixture
def make_job(write_disc: WriteDisc, tmp_path: Path) -> MakeJob:
    """A function that writes a slide and gives the job of tiling it: patches of 64 pixels at 2 µm."""

    def make(slide_id: str = "a", *, tissue: bool = True, drawn: Drawn | None = None, **settings: Any) -> Job:
        path = write_disc(slide_id, tissue)
        given = {"slides": [path], "out": tmp_path / "out", "workers": 1, "mpp": 2.0, "patch_size": 64, **settings}
        return Job(Entry(slide_id, path, path.name), TileConfig.resolve(given), drawn or Drawn())

    return make


@pytest.fixture
def make_row() -> MakeRow:
    """A function that gives a row of slides.csv of a slide without peculiarities."""

    def make(slide_id: str = "a", **changes: Any) -> Row:
        known: dict[str, Any] = {
            "patches": 120,
            "unreadable": 0,
            "overhanging": 0,
            "reason": "",
            "width": 1024,
            "height": 768,
            "mpp": 0.25,
            "mpp_y": 0.25,
            "mpp_source": "openslide",
            "mpp_actual": 2.0,
            "level": 0,
            "tissue_mm2": 1.5,
            "identity": f"identity of {slide_id}",
        }
        return Row(slide_id=slide_id, path=f"{slide_id}.svs", **{**known, **changes})

    return make
