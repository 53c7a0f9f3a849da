from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

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


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """The marker segments of a JPEG file; the last one holds the scan and the end."""
    found, position = [], 2
    while data[position + 1] != 0xDA:
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((data[position + 1], data[position : position + length]))
        position += length
    return [*found, (0xDA, data[position:])]


def encode_tile(pixels: NDArray[np.uint8], quality: int, rgb: bool) -> bytes:
    """A JPEG file whose own markers do not say in which colour space it is."""
    if rgb:
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, keep_rgb=True, subsampling=0)
        data = stream.getvalue()
    else:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420", False)
    kept = (part for marker, part in segments(data) if marker not in (0xE0, 0xEE))
    return b"\xff\xd8" + b"".join(kept)


def without_tables(data: bytes) -> tuple[bytes, bytes]:
    """An abbreviated tile and its tables, each between its own start and end."""
    parts = segments(data)
    tables = b"".join(part for marker, part in parts if marker in (0xDB, 0xC4))
    rest = b"".join(part for marker, part in parts if marker not in (0xDB, 0xC4))
    return b"\xff\xd8" + rest, b"\xff\xd8" + tables + b"\xff\xd9"


def _write_jpeg(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    mpp: float = 0.25,
    tile: int = 256,
    downsamples: Sequence[int] = (),
    quality: int = 95,
    rgb: bool = False,
    tables: bool = False,
    missing: Sequence[tuple[int, int]] = (),
    broken: Sequence[tuple[int, int]] = (),
) -> Path:
    """A pyramid of JPEG tiles, written as if deflated and relabelled.

    ``missing`` and ``broken`` are columns and rows of tiles of level 0.
    """
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, *downsamples):
            blocks = pixels.reshape(
                pixels.shape[0] // downsample, downsample, pixels.shape[1] // downsample, downsample, 3
            )
            level = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8) if downsample > 1 else pixels
            down, across = -(-level.shape[0] // tile), -(-level.shape[1] // tile)
            padding = ((0, down * tile - level.shape[0]), (0, across * tile - level.shape[1]), (0, 0))
            padded = np.pad(level, padding, mode="edge")
            encoded, common = [], b""
            for row in range(down):
                for column in range(across):
                    part = padded[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
                    data = encode_tile(part, quality, rgb)
                    if tables:
                        data, common = without_tables(data)
                    if downsample == 1 and (column, row) in broken:
                        data = bytes(len(data))
                    encoded.append(b"" if downsample == 1 and (column, row) in missing else data)
            extra = [(347, 7, len(common), common, True)] if common else []
            tiff.write(
                iter(encoded),
                shape=level.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(downsample > 1),
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
                extratags=[*extra, (530, 3, 2, (1, 1) if rgb else (2, 2), True)],
            )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            page.tags["Compression"].overwrite(7)
            page.tags["PhotometricInterpretation"].overwrite(2 if rgb else 6)
    return path


@pytest.fixture
def write_jpeg_pyramid(tmp_path: Path) -> WritePyramid:
    def write(name: str, pixels: NDArray[np.uint8], **settings: Any) -> Path:
        return _write_jpeg(tmp_path / name, pixels, **settings)

    return write


def write_repeated(path: Path, tile: NDArray[np.uint8], size: tuple[int, int]) -> Path:
    """A sparse file for a slide of any size: one JPEG tile, to which the whole directory points.

    Written by hand after TIFF 6.0, sections 2 and 15: tag, type (3 short, 4 long, 5 rational), count, value or offset.
    """
    across, down = -(-size[0] // tile.shape[1]), -(-size[1] // tile.shape[0])
    data = encode_tile(tile, 90, False)
    count = across * down
    arrays = 8 + len(data) + len(data) % 2
    rational = arrays + 8 * count
    directory = rational + 8
    entries = [
        (256, 4, 1, size[0]),
        (257, 4, 1, size[1]),
        (258, 3, 3, directory + 2 + 15 * 12 + 4),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (277, 3, 1, 3),
        (282, 5, 1, rational),
        (283, 5, 1, rational),
        (284, 3, 1, 1),
        (296, 3, 1, 3),
        (322, 4, 1, tile.shape[1]),
        (323, 4, 1, tile.shape[0]),
        (324, 4, count, arrays),
        (325, 4, count, arrays + 4 * count),
        (530, 3, 2, 2 | 2 << 16),
    ]
    with path.open("wb") as stream:
        stream.write(struct.pack("<2sHI", b"II", 42, directory) + data + b"\0" * (len(data) % 2))
        stream.write(np.full(count, 8, "<u4").tobytes() + np.full(count, len(data), "<u4").tobytes())
        stream.write(struct.pack("<2I", 40_000, 1))
        stream.write(struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries))
        stream.write(struct.pack("<I3H", 0, 8, 8, 8))
    return path


@pytest.fixture
def write_repeated_tile(tmp_path: Path) -> WritePyramid:
    def write(name: str, tile: NDArray[np.uint8], size: tuple[int, int]) -> Path:
        return write_repeated(tmp_path / name, tile, size)

    return write


@pytest.fixture(scope="session")
def tissue_like() -> NDArray[np.uint8]:
    """Smooth coloured structure, uint8 (1280, 1536, 3)."""
    random = np.random.default_rng(3)
    noise = random.normal(0, 1, (1280, 1536, 3)).astype(np.float32)
    fields = cv2.GaussianBlur(noise, (0, 0), 4.0)
    return np.clip(170 + 250 * fields, 0, 255).astype(np.uint8)


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
    folder = tmp_path_factory.mktemp("position")
    _write_jpeg(folder / "jpeg.tif", np.ascontiguousarray(pixels), downsamples=(4,), quality=97)
    path = folder / "position.tif"
    return _write(path, np.ascontiguousarray(pixels), downsamples=(4,)), 1 if request.param == "x" else 0


@pytest.fixture
def position_of() -> Callable[[NDArray[np.uint8], int, float], NDArray[np.float64]]:
    """Level-0 positions of a patch's pixel centres along an axis, given roughly where the first one lies."""

    def read(patch: NDArray[np.uint8], axis: int, near: float) -> NDArray[np.float64]:
        mean = patch.astype(float).mean(axis=1 - axis) - 128
        positions = np.unwrap(np.arctan2(mean[:, 1], mean[:, 0])) * PERIOD / (2 * np.pi)
        return positions + PERIOD * np.round((near - positions[0]) / PERIOD)

    return read
