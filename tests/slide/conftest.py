from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

WritePyramid = Callable[..., Path]


PERIOD = 128  # level-0 pixels


@pytest.fixture
def write_pyramid(tmp_path: Path) -> WritePyramid:
    """Write a tiled TIFF pyramid that OpenSlide opens; each further level averages whole blocks of level 0."""

    def write(name: str, pixels: NDArray[np.uint8], **settings: Any) -> Path:
        return _write(tmp_path / name, pixels, **settings)

    return write


def _write(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    mpp: float | tuple[float, float] | None = 0.25,
    downsamples: Sequence[int] = (),
    aperio: str | None = None,
    unit: str = "CENTIMETER",
    dpi: float | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mpp_x, mpp_y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    tags: dict[str, object] = {}
    if dpi is not None:
        tags = {"resolution": (dpi, dpi), "resolutionunit": "INCH"}
    elif mpp_x is not None and mpp_y is not None and aperio is None:
        tags = {"resolution": (1e4 / mpp_x, 1e4 / mpp_y), "resolutionunit": unit}
    height, width = pixels.shape[:2]
    description = None if aperio is None else f"Aperio Image Library v12.0\n{width}x{height} |AppMag = 20{aperio}"
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, *downsamples):
            blocks = pixels.reshape(height // downsample, downsample, width // downsample, downsample, 3)
            level = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8) if downsample > 1 else pixels
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                metadata=None,
                description=description,
                subfiletype=int(downsample > 1),
                **tags,
            )
    return path


@pytest.fixture(scope="session", params=["x", "y"])
def position_slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A slide whose pixels tell their own position along one axis, and the array axis along which it changes.

    Red and green are cosine and sine of 2 pi (position + 0.5) / PERIOD. Averaging over an interval leaves the phase of its
    centre as it is, so positions are read off with a precision of a few hundredths of a pixel.
    """
    phase = 2 * np.pi * (np.arange(2048) + 0.5) / PERIOD
    line = np.stack([np.cos(phase), np.sin(phase), np.zeros_like(phase)], axis=1) * 120 + 128
    across = np.broadcast_to(np.rint(line).astype(np.uint8), (1536, 2048, 3))
    pixels = across if request.param == "x" else across.swapaxes(0, 1)
    path = tmp_path_factory.mktemp("position") / "position.tif"
    return _write(path, np.ascontiguousarray(pixels), downsamples=(4,)), 1 if request.param == "x" else 0


@pytest.fixture
def position_of() -> Callable[[NDArray[np.uint8], int, float], NDArray[np.float64]]:
    """Level-0 positions of a patch's pixel centres along an axis, given roughly where the first one lies."""

    def read(patch: NDArray[np.uint8], axis: int, near: float) -> NDArray[np.float64]:
        mean = patch.astype(float).mean(axis=1 - axis) - 128
        positions = np.unwrap(np.arctan2(mean[:, 1], mean[:, 0])) * PERIOD / (2 * np.pi)
        return positions + PERIOD * np.round((near - positions[0]) / PERIOD)

    return read
