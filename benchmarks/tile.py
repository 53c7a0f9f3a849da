"""Cost of reading patches, compared with a plain loop and with a lower bound.

    SGCL_DATA=... python benchmarks/tile.py                      # metaplasia_HE.svs at 0.5, 0.2528, 0.4 um per pixel
    python benchmarks/tile.py --slide my.svs --mpp 0.5 --repeats 5 --workers 1 2

plain   OpenSlide's read_region for each patch, PIL converts it, OpenCV averages it and encodes it as JPEG
bands   what `sgcl tile` does
bound   each needed native tile decoded once, at the scale that bands decodes, and the patches encoded: no copies, no resampling

Each runs in a separate process on the same patches of the same slide, in turn; none includes tissue detection. Rates are
patches per CPU second, medians over the repeats; ratios are medians of the ratios within a repeat. Work that bands does once
per slide (opening, planning, checking tiles) is included. Memory is the peak of the process minus its peak before it opened
the slide. --workers measures whole runs of `sgcl tile` in wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import simplejpeg
from memory import peak_mib

from sgcl_cli.config import TileConfig
from sgcl_cli.progress import Silent
from sgcl_cli.slide import jpeg, lattice
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import bands, direct
from sgcl_cli.slide.tissue.tissue import segment
from sgcl_cli.stages.tile import tile

SIZE, QUALITY = 256, 90
DATA = Path(os.environ.get("SGCL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def corners_of(path: Path, mpp: float) -> tuple[np.ndarray, bands.Patch]:
    with Slide(path) as slide:
        geometry = lattice.Geometry(SIZE, 0, mpp, slide.mpp)
        thumbnail = slide.thumbnail()
        found = lattice.lay(segment(thumbnail.pixels, thumbnail.mpp).tissue, slide.size, geometry, 0.5)
    return found.coords, bands.Patch(geometry.patch_size_level0, SIZE)


def plain(path: Path, corners: np.ndarray, geometry: bands.Patch) -> dict[str, float]:
    with openslide.OpenSlide(path) as slide:
        level = slide.get_best_level_for_downsample(geometry.extent / SIZE + 0.01)
        side = round(geometry.extent / slide.level_downsamples[level])
        for x, y in corners.tolist():
            region = np.asarray(slide.read_region((x, y), level, (side, side)).convert("RGB"))
            patch = region if side == SIZE else cv2.resize(region, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            cv2.imencode(".jpg", cv2.cvtColor(patch, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return {}


def banded(path: Path, corners: np.ndarray, geometry: bands.Patch) -> dict[str, float]:
    with Slide(path) as slide, direct.opened(slide, corners, geometry) as (source, plan):
        for band in plan:
            for _ in bands.read(
                slide, source, band, corners, geometry, finish=lambda patch: jpeg.encode(patch, QUALITY)
            ):
                pass
        return {"path": source.path, "why": source.why, "decoded": getattr(source, "decoded", 0)}


def bound(path: Path, corners: np.ndarray, geometry: bands.Patch) -> dict[str, float]:
    """Decoding is measured on all needed tiles, encoding on the patches of the first band and scaled to all patches."""
    with Slide(path) as slide, direct.opened(slide, corners, geometry) as (source, plan):
        if not isinstance(source, direct.Direct):
            return {"cpu": float("nan")}
        patches = [patch for _, patch in bands.read(slide, source, plan[0], corners, geometry)]
        patches = [np.ascontiguousarray(patch) for patch in patches]
        needed = {tile for band in plan for block in band.blocks for tile in source.needed(block)}
        files = [source.tiles.jpeg(*tile) for tile in sorted(needed, key=lambda tile: tile[::-1])]
        width, height = source.tiles.side
        start = time.process_time()
        for data in files:
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, min_width=width, min_height=height)
        middle = time.process_time()
        for patch in patches:
            simplejpeg.encode_jpeg(patch, QUALITY, "RGB", "420", False)
        encoding = (time.process_time() - middle) * len(corners) / len(patches)
        return {"cpu": middle - start + encoding, "tiles": len(files)}


WAYS: dict[str, Callable[..., dict[str, float]]] = {"plain": plain, "bands": banded, "bound": bound}


def measure(way: str, path: Path, places: Path) -> None:
    """Run one way in this process; prints CPU seconds and MiB as JSON."""
    cv2.setNumThreads(1)
    content = np.load(places)
    corners, geometry = content["corners"], bands.Patch(float(content["extent"]), SIZE)
    before, start = peak_mib(), time.process_time()
    details = WAYS[way](path, corners, geometry)
    spent = time.process_time() - start
    print(json.dumps({"cpu": spent, "mib": peak_mib() - before, **details}))


def compare(path: Path, mpp: float, repeats: int) -> None:
    corners, geometry = corners_of(path, mpp)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / "places.npz"
        np.savez(places, corners=corners, extent=geometry.extent)
        for _ in range(repeats):
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, str(path), str(places)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                runs[way].append(json.loads(done.stdout))
    rates = {way: [len(corners) / run["cpu"] for run in runs[way]] for way in WAYS}
    first = runs["bands"][0]
    print(f"\n{path.name} at {mpp:g} um/px, {len(corners)} patches; {first['path']}: {first['why']}")
    print(f"{'':8} {'patches / CPU s':>16} {'all repeats':>32} {'CPU s':>6} {'MiB':>6}")
    for way in WAYS:
        every = " ".join(f"{rate:.0f}" for rate in rates[way])
        memory = f"{max(run['mib'] for run in runs[way]):.0f}" if way != "bound" else ""
        spent = statistics.median(run["cpu"] for run in runs[way])
        print(f"{way:8} {statistics.median(rates[way]):16.0f} {every:>32} {spent:6.2f} {memory:>6}")
    ratios = {
        way: statistics.median(ours / theirs for ours, theirs in zip(rates["bands"], rates[way], strict=True))
        for way in ("plain", "bound")
    }
    print(f"bands / plain {ratios['plain']:.2f}   bands / bound {ratios['bound']:.0%}")


def scaling(path: Path, mpp: float, workers: list[int]) -> None:
    """Whole runs on twice as many copies of the slide as the most workers, and on one slide, with as many threads."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / f"{number}{path.suffix}" for number in range(2 * max(workers))]
        for copy in copies:
            copy.symlink_to(path.resolve())
        for number, slides in enumerate((copies, copies[:1])):
            print(f"\nsgcl tile, {len(slides)} slides like {path.name} at {mpp:g} um/px")
            for count in workers:
                out = str(Path(folder) / f"out{number}-{count}")
                config = TileConfig(slides=tuple(map(str, slides)), out=out, mpp=mpp, workers=count)
                start, spent = time.perf_counter(), children()
                outcome = tile(config, Silent())
                seconds, spent = time.perf_counter() - start, children() - spent
                most = max(row["peak_mib"] for row in outcome.data["slides"])
                rate = outcome.data["patches"] / seconds
                print(
                    f"{count} workers: {seconds:.1f} s, {rate:.0f} patches/s, {spent:.1f} CPU s, "
                    f"{spent / seconds:.2f} CPUs busy, at most {most:.0f} MiB a worker"
                )


def children() -> float:
    """CPU seconds of child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, default=DATA / "wsi" / "metaplasia_HE.svs")
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.5, 0.2528, 0.4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, path, places = arguments.measure
        measure(way, Path(path), Path(places))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start")
    for mpp in arguments.mpp:
        compare(arguments.slide, mpp, arguments.repeats)
    if arguments.workers:
        scaling(arguments.slide, arguments.mpp[0], arguments.workers)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
