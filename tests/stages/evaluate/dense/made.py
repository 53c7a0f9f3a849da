"""Slides of two patches with masks, and what is evaluated on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from sgcl_cli.artefacts.patches import PatchIndex, PatchWriter
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.stages.evaluate.dense.masks import Masks, open_masks

SIDE = 64
FAST = {"threads": 1, "device": "cpu", "dense_layer": "layer1", "dense_pixels": 400}


def write_slide(folder: Path, slide_id: str, boundary: int, at: tuple[int, int] | None = None) -> None:
    """Two patches side by side, dark left of the boundary, with a mask: 1 dark, 2 bright, 9 a strip of neither.

    :param at: the corner of the scanned part, which is all that the mask covers; None where all is scanned.
    """
    size = (2 * SIDE, SIDE)
    mask = np.full((SIDE, 2 * SIDE), 2, np.uint8)
    mask[:, :boundary] = 1
    mask[:8] = 9
    rng = np.random.default_rng([*slide_id.encode()])
    image = np.where(mask[..., None] == 1, 60, 200) + rng.integers(-10, 10, (*mask.shape, 3))
    image[:8] = 128
    corners = np.array([[0, 0], [SIDE, 0]])
    with PatchWriter(folder / "tiles/patches" / f"{slide_id}.h5") as writer:
        for x, y in corners:
            patch = np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE].astype(np.uint8))
            writer.append(simplejpeg.encode_jpeg(patch, quality=95))
        writer.finish(
            coords=corners.astype(np.int64) + (at or (0, 0)),
            grid=(corners // SIDE).astype(np.int32),
            tissue=np.ones(2, np.float32),
            attributes={
                "id": f"id {slide_id}",
                "slide_id": slide_id,
                "config": {"mpp": 1.0, "patch_size": SIDE, "overlap": 0},
                "source": {"identity": slide_id, "bounds": None if at is None else [*at, *size]},
            },
            coords_attributes={
                "patch_size_level0": SIDE,
                "level0_width": size[0] if at is None else 1000,
                "level0_height": size[1] if at is None else 900,
            },
            pixels=True,
        )
    (folder / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "masks" / f"{slide_id}.mask.png"), mask)


def settings(data: Path, out: Path, **changes: Any) -> EvaluateConfig:
    fields = {
        "dense": str(data / "masks"),
        "encoder": str(data / "run"),
        "patches": str(data / "tiles"),
        "out": str(out),
    }
    return EvaluateConfig(**{**fields, **FAST, "mask_values": "1=dark,2=bright<b>", **changes})


def masks_of(data: Path, folder: Path, **changes: Any) -> Masks:
    """What is read of a folder of masks."""
    config = settings(data, folder / "unused", **changes)
    return open_masks(config, PatchIndex.open(config.patches, pixels=True))
