"""Cost of embedding, compared with the encoder alone and with a loop that starts a data loader for every slide.

    python benchmarks/embed.py                                   # 50 synthetic slides of 64 patches, ResNet-18
    python benchmarks/embed.py --slides 50 --side 512 --patch-size 128 --repeats 3                   # minutes on one core
    python benchmarks/embed.py --slides 10 --side 1024 --patch-size 128 --encoder random:resnet50 --repeats 5 --workers 2
    python benchmarks/embed.py --only batches --slides 200 --side 256 --patch-size 64 --repeats 7    # many tiny slides
    python benchmarks/embed.py --only memory --slides 500 --side 256 --patch-size 64 --encoder mean-colour

ready   the encoder alone, on batches in memory
split   the same in batches that begin with each slide, as `sgcl embed` encodes them; `--only batches` compares it with ready
stored  `sgcl embed` from stored patches
slides  `sgcl embed --slides` on coordinates only: pixels are read from the slides
loop    for each slide a torch DataLoader over its HDF5 file (PIL decodes, numpy normalises), the encoder, one file of features

Each runs in a separate process, forked after all imports, on the same patches with the same random weights; the four run in
turn, in rotated order. Rates are patches per second of wall time and per CPU second (workers included), medians over the
repeats; ratios are medians of the ratios within a repeat, with the smallest and the largest, which reduces the effect of other
load on the machine. No mode includes imports; all but ready include opening the encoder, planning, opening and writing files.

Memory (Linux) is that of the main process, after a tenth of the slides and at the end: peak resident memory, and current
memory without mapped files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import tifffile
import torch
from memory import peak_mib, status_mib
from PIL import Image

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig, TileConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.engine.pool import Progress
from sgcl_cli.progress import Silent, Task
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.encoders import open_encoder
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.slide import tile_slide

MODES = ("ready", "stored", "slides", "loop")
MPP = 0.5


def make(folder: Path, slides: int, side: int, size: int) -> None:
    """Write slides of texture in JPEG tiles, and their patches: with pixels, and as coordinates only."""
    for number in range(slides):
        path = folder / "slides" / f"{number:03}.tif"
        write_slide(path, side, number)
        for name, settings in (("stored", {"coords_only": False}), ("coords", {"coords_only": True})):
            given = {"slides": (path,), "out": folder / name, "mpp": MPP, "patch_size": size, "min_tissue": 0.0}
            tile_slide(Progress(0), Job(Entry(path.stem, path, path.name), TileConfig.resolve({**given, **settings})))


def write_slide(path: Path, side: int, seed: int, tile: int = 256) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (side, side, 3)).astype(np.float32), (0, 0), 3.0)
    pixels = np.clip(np.array([170, 100, 160]) + 300 * noise, 0, 255).astype(np.uint8)
    starts = range(0, side, tile)
    files = [
        cv2.imencode(".jpg", cv2.cvtColor(pixels[y : y + tile, x : x + tile], cv2.COLOR_RGB2BGR))[1].tobytes()
        for y in starts
        for x in starts
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        iter(files),
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="rgb",
        compression="zlib",
        metadata=None,
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
        extratags=[(530, 3, 2, (2, 2), True)],
    )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)


class OneSlide(torch.utils.data.Dataset):
    """The patches of one file, decoded, cropped and normalised one by one."""

    def __init__(self, path: Path, side: int, mean: Any, std: Any) -> None:
        self.path, self.side = path, side
        self.mean, self.std = (np.array(values, np.float32) for values in (mean, std))
        with h5py.File(path) as file:
            self.offsets = file["jpeg_offsets"][:]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> torch.Tensor:
        from io import BytesIO

        with h5py.File(self.path) as file:
            data = file["jpeg"][self.offsets[row] : self.offsets[row + 1]].tobytes()
        with Image.open(BytesIO(data)) as image:
            edge = (image.width - self.side) // 2
            crop = image.convert("RGB").crop((edge, edge, edge + self.side, edge + self.side))
        pixels = (np.asarray(crop, np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def prepared(mode: str, folder: Path, config: EmbedConfig) -> Callable[[], int]:
    """The function to measure; it returns the number of embedded patches."""
    if mode in ("stored", "slides"):
        return lambda: int(embed(config).data["patches"])
    index = PatchIndex.open(folder / "stored")
    runtime = engine.start(config.device, config.precision, config.threads)
    if mode in ("ready", "split"):
        opened = open_encoder(config, index.patch_size)
        read = StoredPatches(index)
        batch = torch.from_numpy(np.stack([read(row % len(index)) for row in range(config.batch)]))
        encoder = FrozenEncoder(opened.card, opened.readout, runtime)

        counts = [len(index)] if mode == "ready" else [len(file) for file in index.files]

        def ready() -> int:
            for count in counts:
                for start in range(0, count, config.batch):
                    encoder(batch[: min(config.batch, count - start)])
            return len(index)

        return ready

    def loop() -> int:
        opened = open_encoder(config, index.patch_size)
        model, card = opened.readout.to(runtime.device), opened.card
        Path(config.out).mkdir(parents=True)
        for file in index.files:
            rows = OneSlide(file.path, card.input_size, card.mean, card.std)
            loader = torch.utils.data.DataLoader(rows, config.batch, num_workers=config.workers or 0)
            with torch.inference_mode():
                features = torch.cat([model(batch.to(runtime.device)).cpu() for batch in loader])
            with h5py.File(Path(config.out) / f"{file.slide_id}.h5", "w") as target:
                target["features"], target["coords"] = features.numpy(), file.coords
        return len(index)

    return loop


def measured(mode: str, folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    with configured(mode, folder, settings) as config:
        work = prepared(mode, folder, config)
        began, before = time.perf_counter(), os.times()
        patches = work()
        wall, after = time.perf_counter() - began, os.times()
    return {"patches": patches, "wall": wall, "cpu": sum(after[:4]) - sum(before[:4])}


@contextmanager
def configured(mode: str, folder: Path, settings: dict[str, Any]) -> Iterator[EmbedConfig]:
    with tempfile.TemporaryDirectory() as out:
        source = {"patches": folder / ("coords" if mode == "slides" else "stored"), "out": Path(out) / "features"}
        slides = {"slides": folder / "slides"} if mode == "slides" else {}
        yield EmbedConfig.resolve({**settings, **source, **slides})


class Watching(Silent):
    """Records the memory when a tenth of the patches is done."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, float] | None = None
        self.done = self.total = 0

    def task(self, name: str, total: int | None, unit: str) -> Task:
        self.total = total or 0
        task = super().task(name, total, unit)
        task.advance = self.advance  # type: ignore[method-assign]
        return task

    def advance(self, units: int = 1) -> None:
        self.done += units
        if self.first is None and self.done >= self.total / 10:
            self.first = memory()


def memory() -> dict[str, float]:
    """Peak resident memory of this process, and its current memory without mapped files, in MiB."""
    return {"peak": peak_mib(), "own": status_mib("RssAnon")}


def watched(mode: str, folder: Path, settings: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    with configured(mode, folder, settings) as config:
        reporter = Watching()
        embed(config, reporter)
        assert reporter.first is not None
        return reporter.first, memory()


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function called in a forked process."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(function(*arguments)))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} failed in its process; see above") from None
    finally:
        process.join()


def rates(folder: Path, settings: dict[str, Any], repeats: int, modes: tuple[str, ...], bases: tuple[str, ...]) -> None:
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    for repeat in range(repeats):
        for mode in (*modes[repeat % len(modes) :], *modes[: repeat % len(modes)]):
            found[mode].append(apart(measured, mode, folder, settings))
            run = found[mode][-1]
            print(f"  {repeat + 1}/{repeats} {mode:8}{run['wall']:8.1f} s{run['cpu']:8.1f} CPU s", flush=True)
    print(f"{found['ready'][0]['patches']} patches, {settings}")
    print(f"{'':8}{'patches/s':>10}{'per CPU s':>10}", end="")
    print("".join(f"{name:>20}" for base in bases for name in (f"to {base}", "CPU")))
    for mode in modes:
        cells = [statistics.median(run["patches"] / run[clock] for run in found[mode]) for clock in ("wall", "cpu")]
        line = f"{mode:8}{cells[0]:10.1f}{cells[1]:10.1f}"
        for base in bases:
            for clock in ("wall", "cpu"):
                pairs = zip(found[mode], found[base], strict=True)
                ratios = sorted(other[clock] / run[clock] for run, other in pairs)
                line += f"{statistics.median(ratios):8.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(line)


def memories(folder: Path, settings: dict[str, Any], slides: int) -> None:
    print(f"{settings}\n{'MiB':8}{f'slide {slides // 10}':>20}{f'slide {slides}':>20}")
    for mode in ("stored", "slides"):
        parts = apart(watched, mode, folder, settings)
        print(f"{mode:8}" + "".join(f"{part['peak']:10.1f} ({part['own']:.1f})" for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rates", "batches", "memory"), default="rates")
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--side", type=int, default=2048, help="of a slide, pixels; a multiple of 256")
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--encoder", default="random:resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in ("encoder", "batch", "workers", "threads", "device")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart(make, folder, given.slides, given.side, given.patch_size)
        print(f"{given.slides} slides of {given.side} pixels, patches of {given.patch_size}")
        if given.only == "rates":
            rates(folder, settings, given.repeats, MODES, ("ready", "loop"))
        elif given.only == "batches":
            rates(folder, settings, given.repeats, ("ready", "split"), ("ready",))
        else:
            memories(folder, settings, given.slides)


if __name__ == "__main__":
    main()
