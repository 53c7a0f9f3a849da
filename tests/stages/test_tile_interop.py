"""Peers' conventions: their readers on our files, and their coordinate files in our runs.

The readers here are written from the conventions alone (docs/tile.md, "Interoperability").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress, Result
from sgcl_cli.errors import ConfigError
from sgcl_cli.progress import Silent
from sgcl_cli.stages import drawings
from sgcl_cli.stages import tile as stage
from sgcl_cli.stages.tile import tile

SIDE = 1024


def write_slide(path: Path, mpp: float = 2.0, seed: int = 0) -> Path:
    """Textured tissue, all over, smooth enough for JPEG, in a tiled TIFF with a second level at a quarter."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.normal(0, 1, (SIDE, SIDE)), (0, 0), 8.0)[..., None]
    pixels = np.clip(np.array([170, 110, 160]) + 1000 * noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, cv2.resize(pixels, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_AREA)):
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                metadata=None,
                subfiletype=int(level is not pixels),
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
            )
    return path


def config(out: Path, *slides: Path, **settings: Any) -> TileConfig:
    return TileConfig.resolve(
        {"slides": slides, "out": out, "workers": 1, "mpp": 2.0, "patch_size": 64, "jpeg_quality": 95, **settings}
    )


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


def clam_patches(out: Path, slide: Path) -> list[tuple[tuple[int, int], np.ndarray]]:
    """As CLAM's dataset of a slide: (x, y) at level 0 and ``patch_size`` pixels of ``patch_level``."""
    with h5py.File(out / "patches" / f"{slide.stem}.h5", "r") as file, openslide.OpenSlide(slide) as source:
        data = file["coords"]
        level, side = int(data.attrs["patch_level"]), int(data.attrs["patch_size"])
        assert tuple(data.attrs["level_dim"]) == source.level_dimensions[level]
        assert tuple(data.attrs["downsample"]) == (source.level_downsamples[level],) * 2
        return [
            ((x, y), np.asarray(source.read_region((x, y), level, (side, side)).convert("RGB")))
            for x, y in data[:].tolist()
        ]


def trident_patches(tree: Path, slide: Path) -> list[tuple[tuple[int, int], np.ndarray]]:
    """As TRIDENT's patcher: a field of view by the ratio of magnifications, resized to ``patch_size`` pixels."""
    with h5py.File(tree / "patches" / f"{slide.stem}_patches.h5", "r") as file, openslide.OpenSlide(slide) as source:
        data = file["coords"]
        assert data.attrs["name"] == slide.stem
        assert (data.attrs["level0_width"], data.attrs["level0_height"]) == source.dimensions
        ratio = data.attrs["level0_magnification"] / data.attrs["target_magnification"]
        side = int(data.attrs["patch_size"])
        extent = round(side * ratio)
        assert extent == round(data.attrs["patch_size_level0"])
        assert 0 <= int(data.attrs["overlap"]) < side
        patches = []
        for x, y in data[:].tolist():
            pixels = np.asarray(source.read_region((x, y), 0, (extent, extent)).convert("RGB"))
            patches.append(((x, y), cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)))
        return patches


def agree(index: PatchIndex, peers: list[tuple[tuple[int, int], np.ndarray]]) -> None:
    assert len(index) == len(peers) > 0
    for number, (corner, pixels) in enumerate(peers):
        assert tuple(index.coords[number]) == corner
        ours = simplejpeg.decode_jpeg(index.read(number)).astype(float)
        assert np.abs(ours - pixels).mean() < 3


@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_clams_reader_sees_the_same_patches(tmp_path, inline, mpp):
    slide = write_slide(tmp_path / "in" / "s 1.tif")
    tile(config(tmp_path / "out", slide, mpp=mpp, min_tissue=0.0), Silent())
    agree(PatchIndex.open(tmp_path / "out"), clam_patches(tmp_path / "out", slide))


@pytest.mark.parametrize(
    ("mpp", "overlap", "name"), [(2.0, 16, "5x_64px_16px_overlap"), (3.2, 0, "5x_64px_0px_overlap")]
)
def test_tridents_reader_sees_the_same_patches_in_its_tree(tmp_path, inline, mpp, overlap, name):
    slide = write_slide(tmp_path / "in" / "s.1.tif")
    settings = {"mpp": mpp, "overlap": overlap, "min_tissue": 0.0, "layout": "trident"}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    assert not (tmp_path / "out" / "patches").exists()
    agree(PatchIndex.open(tmp_path / "out", pixels=True), trident_patches(tmp_path / "out" / name, slide))


def test_layouts_hold_the_same_patches_and_do_not_mix(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "a.tif")
    tile(config(tmp_path / "ours", slide), Silent())
    tile(config(tmp_path / "theirs", slide, layout="trident"), Silent())
    ours, theirs = PatchIndex.open(tmp_path / "ours"), PatchIndex.open(tmp_path / "theirs")
    assert ours.id == theirs.id
    assert ours.files[0].path.read_bytes() == theirs.files[0].path.read_bytes()
    with pytest.raises(ConfigError, match="holds patches in 5x_64px_0px_overlap/patches"):
        tile(config(tmp_path / "theirs", slide), Silent())
    with pytest.raises(ConfigError, match="holds patches in 5x_64px_0px_overlap/patches"):
        tile(config(tmp_path / "theirs", slide, layout="trident", patch_size=32, overwrite=True), Silent())


def test_tridents_tree_is_resumed_and_overwritten(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "a.tif")
    settings = {"layout": "trident"}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    (made,) = (tmp_path / "out").glob("*x_*/patches/*.h5")
    before = made.stat().st_mtime_ns
    assert tile(config(tmp_path / "out", slide, **settings), Silent()).data["skipped"] == 1
    assert made.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="--min-tissue was 0.5, is 0.4"):
        tile(config(tmp_path / "out", slide, min_tissue=0.4, **settings), Silent())
    tile(config(tmp_path / "out", slide, min_tissue=0.4, overwrite=True, **settings), Silent())
    assert PatchFile.open(made).config["min_tissue"] == 0.4
