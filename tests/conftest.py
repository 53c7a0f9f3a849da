"""Fixtures shared by tests of several rooms: the folder of real slides, and small synthetic patches."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from sgcl_cli.artefacts.patches import PatchWriter

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides; tests that need it are skipped if it is absent."""
    folder = Path(os.environ.get("SGCL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} (set SGCL_DATA)")
    return folder


def _write_slide(folder: Path, slide_id: str, columns: int, rows: int, size: int, pixels: bool, seed: int) -> Path:
    rng = np.random.default_rng([seed, *slide_id.encode()])
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(np.int32)
    config = {"mpp": 0.5, "patch_size": size, "overlap": 0}
    path = folder / "patches" / f"{slide_id}.h5"
    labels = (grid[:, 0] >= columns // 2).astype(np.int16)
    with PatchWriter(path) as writer:
        if pixels:
            for label in labels:
                coarse = rng.integers(60, 220, (size // (4 + 4 * int(label)),) * 2 + (3,))
                image = np.kron(coarse, np.ones((4 + 4 * int(label),) * 2 + (1,))).astype(np.uint8)
                writer.append(simplejpeg.encode_jpeg(np.ascontiguousarray(image[:size, :size]), quality=90))
        writer.finish(
            coords=grid.astype(np.int64) * size,
            grid=grid,
            tissue=np.ones(len(grid), np.float32),
            attributes={
                "id": f"{slide_id}-{columns}x{rows}-{size}-{seed}",
                "slide_id": slide_id,
                "config": config,
                "source": {"identity": f"identity of {slide_id}"},
                "label_names": ["fine", "coarse"],
            },
            coords_attributes={"patch_size": size, "patch_size_level0": size, "mpp_target": 0.5},
            pixels=pixels,
            label=labels,
        )
    return path


@pytest.fixture(scope="session")
def write_patches() -> Callable[..., Path]:
    """A function that writes a folder of small synthetic patches in the format of ``sgcl tile`` and returns its path."""

    def write(
        folder: Path,
        slides: dict[str, tuple[int, int]] | None = None,
        size: int = 32,
        pixels: bool = True,
        seed: int = 0,
    ) -> Path:
        for slide_id, (columns, rows) in (slides or {"a": (4, 4), "b": (5, 3)}).items():
            _write_slide(folder, slide_id, columns, rows, size, pixels, seed)
        return folder

    return write


@pytest.fixture
def make_patches(tmp_path: Path, write_patches: Callable[..., Path]) -> Callable[..., Path]:
    """``write_patches`` into a named folder below ``tmp_path``."""
    return lambda name="tiles", *arguments, **settings: write_patches(tmp_path / name, *arguments, **settings)
