"""Slides of every kind that is promised, through the whole stage."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress, Result
from sgcl_cli.errors import SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages import drawings
from sgcl_cli.stages import tile as stage
from sgcl_cli.stages.tile import tile


def tissue(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """An ellipse of textured tissue on glass that fills most of the picture."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 6.0)[..., None]
    rows, columns = np.indices((height, width))
    inside = np.hypot(rows / height - 0.5, columns / width - 0.5)[..., None] < 0.42
    picture = np.where(inside, np.array([170, 110, 160]) + 800 * noise, 240)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 2.0), 0, 255).astype(np.uint8)


def config(out: Path, *slides: Path, **settings: Any) -> TileConfig:
    return TileConfig.resolve({"slides": slides, "out": out, "workers": 1, "mpp": 2.0, "patch_size": 64, **settings})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks in this process: the pool has its own tests."""

    def run_tasks(function: Callable[..., Any], tasks: dict[str, tuple[Any, ...]], **_: Any) -> Iterator[Result[Any]]:
        for slot, (key, arguments) in enumerate(tasks.items()):
            try:
                yield Result(key, function(Progress(slot), *arguments))
            except Exception as error:
                yield Result(key, error=error)

    monkeypatch.setattr(stage, "run_tasks", run_tasks)
    monkeypatch.setattr(drawings, "run_tasks", run_tasks)


def write_tiled(path: Path, pixels: NDArray[np.uint8], mpp: tuple[float, float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    return path


def test_a_slide_with_oblong_pixels_gives_square_patches(tmp_path, inline):
    pixels = tissue(768, 768)
    square = write_tiled(tmp_path / "in" / "square.tif", pixels, (2.0, 2.0))
    squeezed = cv2.resize(pixels, (768, 512), interpolation=cv2.INTER_AREA)
    oblong = write_tiled(tmp_path / "in" / "oblong.tif", squeezed, (2.0, 3.0))
    mask = np.zeros((512, 768), np.uint8)
    mask[:, :384] = 255
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "oblong.png"), mask)
    settings = {"mpp": 4.0, "annotations": tmp_path / "masks", "jpeg_quality": 95}
    outcome = tile(config(tmp_path / "out", square, oblong, **settings), Silent())
    assert not outcome.failures
    ours, theirs = PatchIndex.open(tmp_path / "out").files
    assert ours.slide_id == "oblong" and abs(len(ours) - len(theirs)) <= 2 and len(ours) > 15

    shared = {tuple(cell): row for row, cell in enumerate(theirs.grid.tolist())}
    compared = 0
    for row, cell in enumerate(map(tuple, ours.grid.tolist())):
        column, line = cell
        assert ours.coords[row].tolist() == [128 * column, int(np.floor(line * 256 / 3 + 0.5))]
        assert ours.label[row] == (0 if column < 3 else -1)
        if cell in shared:
            one, other = (simplejpeg.decode_jpeg(file.read(at)) for file, at in ((ours, row), (theirs, shared[cell])))
            assert one.shape == (64, 64, 3) and np.abs(one.astype(float) - other).mean() < 4
            compared += 1
    assert compared > 15

    made = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert [float(made["oblong"][name]) for name in ("mpp", "mpp_y", "mpp_actual")] == pytest.approx(
        [2, 3, 4], rel=1e-3
    )
    assert made["square"]["mpp"] == made["square"]["mpp_y"]
    assert float(made["oblong"]["tissue_mm2"]) == pytest.approx(float(made["square"]["tissue_mm2"]), rel=0.05)
    assert "oblong" in ours.source["path_why"] and theirs.source["path"] == "openslide"
    assert ours.geometry["patch_size_level0_xy"] == pytest.approx([128, 256 / 3])
    assert ours.geometry["mpp_level0_xy"] == pytest.approx([2, 3], rel=1e-3)
    wrong = {
        "patch_size_level0",
        "level0_magnification",
        "target_magnification",
        "patch_level",
        "mpp_level0",
        "stride0",
    }
    assert not wrong & set(ours.geometry) and wrong - {"patch_level"} <= set(theirs.geometry)
    assert "2 across, 3 down, um/px" in (tmp_path / "out" / "index.html").read_text()

    again = tile(config(tmp_path / "out", square, oblong, **settings), Silent())
    assert again.data["skipped"] == 2 and rows_of(tmp_path / "out" / "slides.csv") == [*made.values()]


def test_native_tiles_of_oblong_pixels_are_not_copied(tmp_path, inline):
    oblong = write_tiled(tmp_path / "oblong.tif", tissue(768, 512), (2.0, 3.0))
    with pytest.raises(SlideError, match="its pixels are oblong, so its tiles are no patches"):
        tile(config(tmp_path / "out", oblong, mpp=4.0, lossless=True), Silent())
