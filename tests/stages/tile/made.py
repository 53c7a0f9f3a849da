"""Slides, settings and readers of output that several tests of tiling use."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from sgcl_cli.config import TileConfig

SETTINGS = {"mpp": 2.0, "patch_size": 64}


SIDE = 1024


def write_slide(path: Path, mpp: float | None = 2.0, tissue: bool = True, side: int = SIDE, seed: int = 0) -> Path:
    """A disc of textured tissue on glass, 2 mm across, in a tiled TIFF."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((side // 4, side // 4)) - side / 8
    texture = 1 + cv2.GaussianBlur(random.normal(0, 1, rows.shape), (0, 0), 1.0)[..., None]
    inside = (np.hypot(rows, columns) < side / 10)[..., None] & tissue
    image = 240 * np.exp(-np.where(inside, np.array([0.4, 0.8, 0.3]) * np.clip(texture, 0.1, 3), 0))
    pixels = np.rint(image).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    tags: dict[str, Any] = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    return path


def write_jpeg_slide(path: Path, *broken: int) -> Path:
    """The disc of ``write_slide`` in JPEG tiles, of which some cannot be decoded."""
    write_slide(path)
    pixels = tifffile.imread(path)
    parts = [pixels[y : y + 256, x : x + 256] for y in range(0, SIDE, 256) for x in range(0, SIDE, 256)]
    files = [cv2.imencode(".jpg", cv2.cvtColor(part, cv2.COLOR_RGB2BGR))[1].tobytes() for part in parts]
    for number in broken:
        files[number] = bytes(len(files[number]))
    tags = {"resolution": (1e4 / 2.0, 1e4 / 2.0), "resolutionunit": "CENTIMETER"}
    settings = {"shape": pixels.shape, "dtype": np.uint8, "tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, iter(files), compression="zlib", extratags=[(530, 3, 2, (2, 2), True)], **settings, **tags)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)
    return path


def config(out: Path, *slides: Path, **settings: Any) -> TileConfig:
    return TileConfig.resolve({"slides": slides, "out": out, "workers": 1, **SETTINGS, **settings})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_measures(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "peak_mib")} for row in rows]
