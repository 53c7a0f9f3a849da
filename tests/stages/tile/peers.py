"""Slides of two levels, and readers of CLAM's and TRIDENT's files.

The readers are written from the conventions alone (docs/tile.md, "Interoperability").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import openslide
import simplejpeg
import tifffile

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import TileConfig

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


def clam_patches(out: Path, slide: Path) -> list[tuple[tuple[int, int], np.ndarray]]:
    """As CLAM's dataset of a slide: (x, y) at level 0 and ``patch_size`` pixels of ``patch_level``."""
    with h5py.File(out / "patches" / f"{slide.stem}.h5", "r") as file, openslide.OpenSlide(slide) as source:
        data = file["coords"]
        level, side = data.attrs["patch_level"], data.attrs["patch_size"]
        assert np.issubdtype(type(level), np.integer) and np.issubdtype(type(side), np.integer)
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
        told = data.attrs["patch_size_level0"]
        source.read_region((0, 0), 0, (told, told))  # as its heatmaps do, which fails for a float
        assert extent == told
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
