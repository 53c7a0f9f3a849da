"""Memory, CPU time and wall time of `sgcl tile` on the largest slides.

    python benchmarks/huge.py                                  # 150,000 x 100,000 pixels, one level
    python benchmarks/huge.py --levels 3 --missing             # a pyramid; glass has no tiles
    python benchmarks/huge.py --size 160000 128000 --tissue 0.8 --coords-only   # 1,000 mm2 of tissue
    python benchmarks/huge.py --size 20000 15000 --json

The slide is synthetic: a JPEG TIFF that repeats one tile of tissue and one of glass, so that the file is small but takes as long
to read as a real one. Tissue is a disc that covers --tissue of the slide. The peak is that of the worker process.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from sgcl_cli.config import TileConfig
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile

TILE, MPP = 256, 0.25
_SHORT, _LONG, _RATIONAL = 3, 4, 5


def tissue_tile(random: np.random.Generator) -> np.ndarray:
    """Stained texture that tiles seamlessly, uint8 (TILE, TILE, 3)."""
    noise = random.normal(0, 1, (TILE, TILE)).astype(np.float32)
    grains = np.fft.ifft2(np.fft.fft2(noise) * np.fft.fft2(_disc())).real
    density = np.clip(0.5 + 0.5 * grains / grains.std(), 0.05, 2.0)[..., None] * (0.5, 1.0, 0.6)
    return np.rint(255 * np.exp(-0.6 * density)).astype(np.uint8)


def _disc() -> np.ndarray:
    across = np.minimum(np.arange(TILE), TILE - np.arange(TILE))
    return (np.hypot(*np.meshgrid(across, across)) < 12).astype(np.float32)


def write(path: Path, size: tuple[int, int], levels: int, share: float, missing: bool) -> None:
    """Write a little-endian TIFF (6.0, sections 2 and 15); each level has a quarter of the side of the previous one."""
    random = np.random.default_rng(0)
    pictures = [tissue_tile(random), np.full((TILE, TILE, 3), 243, np.uint8)]
    with path.open("wb") as stream:
        stream.write(struct.pack("<2sHI", b"II", 42, 0))
        link = 4
        for level in range(levels):
            shrunk = [_reduced(picture, 4**level) for picture in pictures]
            files = [simplejpeg.encode_jpeg(np.ascontiguousarray(tile), 85, "RGB", "420", False) for tile in shrunk]
            starts = []
            for file in files:
                starts.append(stream.tell())
                stream.write(file + b"\0" * (len(file) % 2))
            width, height = (-(-side // 4**level) for side in size)
            glass = _glass(width, height, share)
            offsets, counts = np.array(starts, "<u4")[glass], np.array([len(file) for file in files], "<u4")[glass]
            if missing:
                offsets[glass == 1], counts[glass == 1] = 0, 0
            values = {"offsets": offsets.ravel(), "counts": counts.ravel(), "level": level}
            link = _directory(stream, link, (width, height), **values)


def _reduced(tile: np.ndarray, factor: int) -> np.ndarray:
    small = cv2.resize(tile, (TILE // factor, TILE // factor), interpolation=cv2.INTER_AREA)
    return np.tile(small, (factor, factor, 1))


def _glass(width: int, height: int, share: float) -> np.ndarray:
    """1 where a tile is glass, 0 where it is tissue; int (rows, columns)."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    y, x = np.ogrid[:rows, :columns]
    distance = ((x + 0.5) / columns - 0.5) ** 2 + ((y + 0.5) / rows - 0.5) ** 2
    return (distance * np.pi > share).astype(int)


def _directory(stream, link, size, *, offsets, counts, level) -> int:
    """Write a directory after its values; returns the position of the link to the next one."""
    mpp = MPP * 4**level
    places = []
    for values in (
        offsets.tobytes(),
        counts.tobytes(),
        struct.pack("<2I", round(1e7 / mpp), 1000),
        struct.pack("<3H", 8, 8, 8),
    ):
        places.append(stream.tell())
        stream.write(values + b"\0" * (len(values) % 2))
    entries = [
        (254, _LONG, 1, int(level > 0)),
        (256, _LONG, 1, size[0]),
        (257, _LONG, 1, size[1]),
        (258, _SHORT, 3, places[3]),
        (259, _SHORT, 1, 7),
        (262, _SHORT, 1, 6),
        (277, _SHORT, 1, 3),
        (282, _RATIONAL, 1, places[2]),
        (283, _RATIONAL, 1, places[2]),
        (284, _SHORT, 1, 1),
        (296, _SHORT, 1, 3),
        (322, _LONG, 1, TILE),
        (323, _LONG, 1, TILE),
        (324, _LONG, len(offsets), places[0] if len(offsets) > 1 else int(offsets[0])),
        (325, _LONG, len(counts), places[1] if len(counts) > 1 else int(counts[0])),
        (530, _SHORT, 2, 2 | 2 << 16),
    ]
    start = stream.tell()
    stream.write(struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries))
    next_link = stream.tell()
    stream.write(struct.pack("<I", 0))
    stream.seek(link)
    stream.write(struct.pack("<I", start))
    stream.seek(0, 2)
    return next_link


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(150_000, 100_000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--tissue", type=float, default=0.15, help="share of the slide that is tissue")
    parser.add_argument("--missing", action="store_true", help="glass has no tiles in the file")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--coords-only", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "huge.tif"
        write(path, tuple(arguments.size), arguments.levels, arguments.tissue, arguments.missing)
        config = TileConfig(
            slides=(str(path),),
            out=str(Path(folder) / "out"),
            mpp=arguments.mpp,
            coords_only=arguments.coords_only,
            workers=arguments.workers,
        )
        start = time.perf_counter()
        outcome = tile(config, Silent())
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "size": list(arguments.size),
        "levels": arguments.levels,
        "tissue_mm2": outcome.data["slides"][0]["tissue_mm2"],
        "patches": outcome.data["patches"],
        "peak_mib": outcome.data["slides"][0]["peak_mib"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }
    print(json.dumps(figures) if arguments.json else "   ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
