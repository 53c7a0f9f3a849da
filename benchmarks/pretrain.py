"""Throughput of pretraining, compared with its encoder and its decoder alone.

    python benchmarks/pretrain.py                                   # a synthetic corpus, CPU, small; minutes
    python benchmarks/pretrain.py --patches tiles/ --device cuda --batch 256 --workers 16 --steps 50
    python benchmarks/pretrain.py --only loading --workers 1 4
    python benchmarks/pretrain.py --only start --index 1000000

loop      images per second of the whole loop: decoding, views, encoder, objective, optimiser, banks, log
ceiling   the same encoder on random tensors on the device: forward, backward, optimiser
pieces    parts of a step, one by one: milliseconds of the device and of the host, operations, waits for the device
loading   patches per CPU second of the loader, and of a bare loop of simplejpeg over the same bytes
start     seconds from an opened index to the end of the first step, for an index of --index patches without pixels

Loop and ceiling alternate, step by step, on CUDA in blocks of ten, since a step there may begin before the last one is done.
Rates are medians, and the ratio is the median of the ratios of neighbouring measurements. On the CPU both are CPU time of the
process, which other load on the machine affects little; on CUDA they are wall time. Synthetic patches are measured at each of
--sides in turn. Loading counts the CPU time of the main process and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from counting import counted

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex, PatchWriter
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.fit import cosine, fit
from sgcl_cli.engine.loader import Called, Loader, StoredPatches, epoch_order
from sgcl_cli.engine.processes import cores
from sgcl_cli.engine.ranks import Ranks
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import Views
from sgcl_cli.progress import Silent
from sgcl_cli.stages.encoders import open_start
from sgcl_cli.stages.pretrain.experiment import first_state, plan
from sgcl_cli.stages.pretrain.step import encoder_step, objective_step
from sgcl_cli.stages.pretrain.training import Pretraining
from sgcl_cli.stages.pretrain.warnings import Warnings

SIDE = 256
TURN = 10  # on CUDA, steps of loop before as many of ceiling


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A patch with detail at every scale; its JPEG file is about as large as one of stained tissue."""
    image = np.zeros((side, side, 3))
    for scale, strength in ((64, 30), (16, 25), (4, 20), (2, 8)):
        image += np.kron(rng.normal(0, strength, (side // scale, side // scale, 3)), np.ones((scale, scale, 1)))
    return (image + np.array([200, 150, 190])).clip(0, 255).astype(np.uint8)


def corpus(folder: Path, patches: int, side: int = SIDE) -> Path:
    """One slide of random textures in the format of ``sgcl tile``."""
    rng = np.random.default_rng(0)
    place = np.arange(patches)
    grid = np.stack([place % 50, place // 50], 1).astype(np.int32)
    with PatchWriter(folder / "patches" / "textures.h5") as writer:
        for _ in range(patches):
            writer.append(simplejpeg.encode_jpeg(texture(rng, side), quality=90))
        writer.finish(
            coords=grid.astype(np.int64) * side,
            grid=grid,
            tissue=np.ones(patches, np.float32),
            attributes={
                "id": "textures",
                "slide_id": "textures",
                "config": {"mpp": 0.5, "patch_size": side, "overlap": 0},
                "source": {},
                "label_names": [],
            },
            coords_attributes={"patch_size": side, "patch_size_level0": side, "mpp_target": 0.5},
            pixels=True,
            label=None,
        )
    return folder


@contextmanager
def training_over(config: PretrainConfig, index: PatchIndex) -> Iterator[Pretraining]:
    runtime = engine.start(config.device, config.precision, config.threads)
    start, reporter = open_start(config.encoder, config.init), Silent()
    warnings = Warnings(reporter)
    experiment = plan(config, index, start, run_id="benchmark", runtime=runtime, ranks=Ranks(), warnings=warnings)
    with experiment.loader() as loader:
        state = first_state(experiment, reporter)
        training = Pretraining(experiment, state, loader, reporter=reporter, warnings=warnings)
        training.connect()
        yield training


def clock(runtime: Runtime) -> float:
    runtime.wait()
    return time.perf_counter() if runtime.on_cuda else time.process_time()


def random_views(like: Views) -> Views:
    return Views(
        *(None if part is None else torch.randn_like(part) for part in (like.whole, like.corners, like.second))
    )


def loop(config: PretrainConfig, index: PatchIndex, steps: int) -> None:
    with training_over(config, index) as training:
        looped(training, steps)


def looped(training: Pretraining, steps: int) -> None:
    experiment, runtime = training.experiment, training.experiment.runtime
    config, index = experiment.config, experiment.index
    loops, ceilings = [], []
    turn = TURN if runtime.on_cuda else 1
    last, taken = None, 0

    def stepped() -> bool:
        nonlocal last, taken
        taken += 1
        if last is not None and taken % turn:
            return False
        now = clock(runtime)
        if last is not None:
            loops.append((now - last) / turn)
            found = replace(training.found, fed=replace(training.found.fed, views=still))
            for _ in range(turn):
                encoder_step(training.step, found)
            ceilings.append((clock(runtime) - now) / turn)
        last, taken = clock(runtime), 0
        return len(loops) * turn > steps

    def first() -> bool:
        return True

    schedule = cosine(config.peak_lr, experiment.total_steps)
    fit(training, training.state.optimiser, epochs=config.epochs, lr=schedule, stop=first)
    still = random_views(training.found.fed.views)
    fit(training, training.state.optimiser, epochs=config.epochs, lr=schedule, stop=stepped)
    loops, ceilings = loops[1:], ceilings[1:]  # the first of each includes lazy initialisation
    ratio = statistics.median(ceiling / whole for whole, ceiling in zip(loops, ceilings, strict=True))
    unit = "s" if runtime.on_cuda else "CPU s"
    print(f"loop      {config.batch / statistics.median(loops):8.2f} images per {unit}")
    print(f"ceiling   {config.batch / statistics.median(ceilings):8.2f} images per {unit}")
    print(
        f"loop / ceiling  {ratio:.3f}   (batch {config.batch}, {config.encoder}, {len(index):,} patches, {len(loops)} steps)"
    )
    pieces(training)


def pieces(training: Pretraining) -> None:
    experiment, step, found = training.experiment, training.step, training.found
    runtime, batch = experiment.runtime, found.fed.batch
    patches = batch.patches.to(runtime.device)
    works = {
        "views": lambda: experiment.draw(0, patches, batch.index),
        "encoder": lambda: encoder_step(step, found),
        "objective": lambda: objective_step(step, found),
    }
    host = 0.0
    for name, work in works.items():
        spent, counts = runtime.spent(work, 5), counted(work)
        host += spent.host
        print(
            f"pieces    {name:10} {1e3 * spent.device:8.2f} ms of the device, {1e3 * spent.host:7.2f} ms of the host, "
            f"{counts.operations:4d} operations, {counts.waits} waits"
        )
    print(f"pieces    {'together':10} {1e3 * host:8.2f} ms of the host a step")


def cpu_seconds(process: int | str) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare(index: PatchIndex, patches: int) -> float:
    """Patches per CPU second of a bare decoding loop."""
    files = [index.read(int(i)) for i in np.random.default_rng(0).permutation(len(index))[:patches]]
    started = time.process_time()
    for data in files:
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    return len(files) / (time.process_time() - started)


def loaded(index: PatchIndex, workers: int, batch: int, patches: int) -> float:
    """Patches per CPU second of all processes of the loader, without the time to start them."""
    order = [part for epoch in range(1 + patches // len(index)) for part in epoch_order(len(index), batch, 0, epoch)]
    order = order[: max(1, patches // batch)]
    with Loader(StoredPatches(index), batch=batch, workers=workers, pin=False) as loader:
        for _ in loader.batches(order[:1]):
            pass
        children = list(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
        started = sum(map(cpu_seconds, ["self", *children]))
        for _ in loader.batches(order):
            pass
        return len(order) * batch / (sum(map(cpu_seconds, ["self", *children])) - started)


def loading(index: PatchIndex, workers: list[int], batch: int, patches: int, repeats: int) -> None:
    for count in workers:
        pairs = [(bare(index, patches), loaded(index, count, batch, patches)) for _ in range(repeats)]
        alone, fed = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(fed / alone for alone, fed in pairs)
        print(
            f"loading   {fed:8.0f} patches per CPU s with {count} workers, {alone:.0f} bare; loading / bare  {ratio:.3f}"
        )


def start(config: PretrainConfig, patches: int) -> None:
    """Time the start with an index without pixels, 10,000 patches per slide; every patch read is grey."""
    files, place = [], np.arange(10_000)
    grid = np.stack([place % 100, place // 100], 1).astype(np.int32)
    settings = {"mpp": 0.5, "patch_size": SIDE, "overlap": 0}
    for number in range(patches // len(place)):
        files.append(
            PatchFile(
                path=Path(f"{number}.h5"), id=str(number), slide_id=f"{number:05d}", coords=grid.astype(np.int64) * SIDE,
                grid=grid, tissue=np.ones(len(place), np.float32), label=None, label_names=(), config=settings, source={},
                reason="", geometry={}, jpeg_offsets=None,
            )
        )  # fmt: skip
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    before, began = time.process_time(), time.perf_counter()
    with training_over(config, PatchIndex(Path(), tuple(files))) as training:
        runtime, steps = training.experiment.runtime, training.experiment.total_steps
        built, built_wall = time.process_time() - before, time.perf_counter() - began
        source = Called(lambda i: grey, SIDE)
        with Loader(source, batch=config.batch, workers=0, pin=runtime.on_cuda) as training.feed._loader:
            fit(training, training.state.optimiser, epochs=1, lr=cosine(0.1, steps), stop=lambda: True)
        took, wall = time.process_time() - before, time.perf_counter() - began
    print(
        f"start     {built:.1f} CPU s ({built_wall:.1f} s) to build, {took:.1f} CPU s ({wall:.1f} s) to the end of step 1"
    )
    print(f"          {patches:,} patches, batch {config.batch}, {runtime.describe()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", help="folder that sgcl tile wrote; default: 600 synthetic textures")
    parser.add_argument("--only", choices=["loop", "loading", "start"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decoded", type=int, default=2_000, help="patches that loading decodes in a repeat")
    parser.add_argument("--index", type=int, default=1_000_000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--sides", type=int, nargs="+", default=[SIDE], help="of synthetic patches, pixels")
    given = parser.parse_args()
    print(json.dumps({"torch": torch.__version__, "cores": cores(), **vars(given)}))
    with tempfile.TemporaryDirectory() as scratch:
        folders = [given.patches] if given.patches else []
        folders = folders or [str(corpus(Path(scratch) / str(side), 600, side)) for side in given.sides]
        for number, folder in enumerate(folders):
            config = PretrainConfig(
                patches=folder, out=scratch, encoder=given.encoder, batch=given.batch, device=given.device,
                threads=given.threads, compile=given.compile, dry_run=True,
                workers=None if given.device == "cpu" else max(given.workers),
            )  # fmt: skip
            index = PatchIndex.open(folder, pixels=True)
            print(f"patches   {len(index):,} of {index.patch_size} pixels")
            if given.only in (None, "loading"):
                loading(index, given.workers, given.batch, given.decoded, given.repeats)
            if given.only in (None, "loop"):
                loop(config, index, given.steps)
            if given.only == "start" or (given.only is None and number == 0):
                start(config, given.index)


if __name__ == "__main__":
    main()
