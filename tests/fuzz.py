"""``make fuzz``: damages one small file of each kind at random and reads it, in a child with limits on memory and time.

A reader may return, or refuse with an SgclError whose message is one line. Everything else is a finding: another exception, a
crash, a hang, a gigabyte for a kilobyte, a file outside the output. What failed is kept, with its traceback beside it.

Mutations follow from the seed and the number of the trial alone: ``python -m tests.fuzz --kind tensor --trial 123`` repeats one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tifffile
import torch
from PIL import Image

from sgcl_cli.artefacts import coordinates, models, parts, store
from sgcl_cli.artefacts.checkpoint import EncoderCard, load_encoder, read_weights, save_checkpoint, save_encoder
from sgcl_cli.artefacts.features import open_features, read_header
from sgcl_cli.artefacts.labels import read_labels
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import check_free
from sgcl_cli.config import EmbedConfig, TileConfig, load_toml
from sgcl_cli.errors import SgclError
from sgcl_cli.report.curves import read_metrics
from sgcl_cli.slide.annotations import files as annotations
from sgcl_cli.slide.annotations.files import MaskReading
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.pretrain.log import MetricsLog
from tests.conftest import _write_slide

MEMORY = 2 * 2**30  # bytes, beyond what Python and torch have before
SECONDS = 30  # of computing; ten times as many on the clock, for what only waits
INTERESTING = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f" * 4,
    b"9" * 30,
    b"9" * 5000,
    b"[" * 3000,
    b"-",
    b"1e999",
    b"NaN",
    b"../../x",
    b'"',
]


@dataclass(frozen=True)
class Kind:
    """A file in a fresh folder, and what is done with it; ``read`` takes the folder."""

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def _patches(folder: Path) -> None:
    for name in ("a", "b"):
        _write_slide(folder / "tiles", name, 2, 2, 32, True, 0)


def _embedded(folder: Path) -> None:
    config = EmbedConfig(
        patches=str(folder / "tiles"), encoder="mean-colour", out=str(folder / "out"), workers=0, threads=1, map=True,
        also="pt",
    )  # fmt: skip
    embed(config)


def _features(folder: Path) -> None:
    (folder / "f").mkdir()
    with h5py.File(folder / "f" / "s.h5", "w") as file:
        file["features"], file["coords"] = np.ones((5, 4), np.float32), np.arange(10).reshape(5, 2)
        file["name"], file.attrs["slide_id"] = ["a", "b", "c", "d", "e"], "s"
        file.attrs["label_names"], file["label"] = '["x", "y"]', np.array([0, 1, 0, 1, -1], np.int16)


def _ours(folder: Path) -> None:
    _patches(folder)
    _embedded(folder)


def _read_ours(folder: Path) -> None:
    read_header(folder / "out" / "a.h5")
    open_features(folder / "out")


def _coordinates(folder: Path) -> None:
    with h5py.File(folder / "s.h5", "w") as file:
        file["coords"] = np.arange(10).reshape(5, 2)
        for name, value in {"patch_size": 256, "patch_level": 0, "patch_size_level0": 512, "name": "s"}.items():
            file["coords"].attrs[name] = value


def _encoder(folder: Path) -> None:
    card = EncoderCard("resnet18", 4, 28, (0.5,) * 3, (0.2,) * 3, 0.5, 32, pretrain_slides=("x",))
    save_encoder(folder, card, {"w": torch.ones(3, 4)})


def _weights(folder: Path) -> None:
    _encoder(folder)
    (folder / "encoder.safetensors").rename(folder / "w.safetensors")


def _checkpoint(folder: Path) -> None:
    card = {"name": "resnet18", "embedding_size": 4, "input_size": 28, "mean": [0.5] * 3, "std": [0.2] * 3}
    encoder = {"card": card, "state": {"w": torch.ones(3, 4)}}
    save_checkpoint(folder / "last.pt", {"encoder": encoder, "position": [1, 2, 3], "config": {"a": [1]}})


def _models(folder: Path) -> None:
    one = models.Fitted("constant", {"value": np.array([0.25, 0.75])}, {"classes": 2})
    score = {"value": 0.5, "low": None, "high": None, "reason": "", "no_interval": "few"}
    card = {
        "result": "i", "level": "slide", "task": "binary", "target": "label", "classes": ["x", "y"], "confidence": 0.95,
        "features": {"dim": 4}, "folds": {"1": {"slides": ["a"], "identities": ["a"], "patients": ["p"]}},
        "scores": {"m": {"name": "M", "metrics": {"auroc": score}}},
    }  # fmt: skip
    models.write(folder / "models", card, {"m": models.Kept("M", "mean", {"1": [one]})})
    store.write_json(folder / "run.json", {})


def _read_models(folder: Path) -> None:
    card = models.read_card(folder)
    for key in card["models"]:
        models.read(folder, card, key)


def _run(folder: Path) -> None:
    part = {"cohort": "c", "shard": [1, 1], "failures": [], "warnings": [], "seconds": 1.0, "token": "t"}
    store.write_json(folder / "run.json", {"stage": "tile", "id": "i", "parts": [part], "inputs": {}, "result": {}})


def _metrics(folder: Path) -> None:
    lines = [{"step": 1, "epoch": 0.5, "loss": {"total": 1.0}}, {"step": 2, "summary": {"epoch": 1}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_metrics(folder: Path) -> None:
    read_metrics(folder / "metrics.jsonl")
    log = MetricsLog(folder, writes=True)
    log.trim(1)
    log.summaries()


GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"classification": {"name": "tumour"}},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 0]]]},
        }
    ],
}
XML = (
    '<?xml version="1.0" encoding="utf-8"?><ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="_0">'
    '<Coordinates><Coordinate X="0" Y="0"/><Coordinate X="9" Y="0"/><Coordinate X="9" Y="9"/></Coordinates></Annotation>'
    "</Annotations></ASAP_Annotations>"
)
MASK = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) % 3, np.ones((16, 16), np.uint8))


def _annotation(name: str, make: Callable[[Path], object]) -> Kind:
    return Kind(name, lambda folder: make(folder / name), lambda folder: annotations.read(folder / name, MaskReading()))


KINDS = {
    "patches": Kind("tiles/patches/a.h5", _patches, lambda folder: PatchIndex.open(folder / "tiles")),
    "embedding": Kind("tiles/patches/a.h5", _patches, _embedded),
    "features": Kind("f/s.h5", _features, lambda folder: open_features(folder / "f")),
    "our-features": Kind("out/a.h5", _ours, _read_ours),
    "tensor": Kind("s.pt", lambda f: torch.save({"features": torch.ones(5, 4)}, f / "s.pt"), lambda f: open_features(f / "s.pt")),
    "numpy": Kind("s.npy", lambda f: np.save(f / "s.npy", np.ones((5, 4))), lambda f: open_features(f / "s.npy")),
    "coordinates": Kind("s.h5", _coordinates, lambda folder: coordinates.read(folder / "s.h5")),
    "card": Kind("encoder.json", _encoder, load_encoder),
    "safetensors": Kind("w.safetensors", _weights, lambda folder: read_weights(folder / "w.safetensors")),
    "checkpoint": Kind("last.pt", _checkpoint, lambda folder: read_weights(folder / "last.pt")),
    "model-card": Kind("models/card.json", _models, _read_models),
    "models": Kind("models/m.safetensors", _models, _read_models),
    "run": Kind("run.json", _run, lambda folder: (check_free(folder, "tile"), parts.recorded(folder))),
    "metrics": Kind("metrics.jsonl", _metrics, _read_metrics),
    "labels": Kind(
        "l.csv",
        lambda f: (f / "l.csv").write_text("slide_id,label,patient_id\na,x,p\nb,y,q\n"),
        lambda f: read_labels(f / "l.csv"),
    ),
    "toml": Kind(
        "c.toml",
        lambda f: (f / "c.toml").write_text('[tile]\nmpp = 0.5\npatch-size = 256\nslides = ["a"]\nout = "o"\n'),
        lambda f: TileConfig.resolve(load_toml(f / "c.toml", "tile")),
    ),
    "geojson": _annotation("a.geojson", lambda path: path.write_text(json.dumps(GEOJSON))),
    "xml": _annotation("a.xml", lambda path: path.write_text(XML)),
    "points": _annotation("a.csv", lambda path: path.write_text("x,y,name,radius_px\n1,2,tumour,3\n4,5,other,6\n")),
    "mask-tiff": _annotation("a.tif", lambda path: tifffile.imwrite(path, MASK, compression="zlib", rowsperstrip=8)),
    "mask-png": _annotation("a.png", lambda path: Image.fromarray(MASK).save(path)),
}  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, runs, cuts, insertions, places that change places."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(0, len(changed) + 1)), int(2 ** rng.uniform(0, 8))
        how = int(rng.integers(0, 7))
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif how == 1:
            changed[at : at + length] = rng.bytes(len(changed[at : at + length]))
        elif how == 2:
            changed[at : at + length] = bytes([int(rng.choice([0, 255, 48, 57]))]) * len(changed[at : at + length])
        elif how == 3:
            changed[at:at] = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
        elif how == 4:
            other = int(rng.integers(0, len(changed) + 1))
            changed[at : at + length] = changed[other : other + length]
        elif how == 5 and rng.random() < 0.3:
            del changed[at:]
        else:
            digits = [i for i in range(at, min(at + 400, len(changed))) if 48 <= changed[i] <= 57]
            for i in digits[:3]:
                changed[i] = int(rng.integers(48, 58))
    return bytes(changed)


def trial(name: str, seed: int, number: int, keep: Path) -> str:
    """One mutation of one kind, made and read here: read, refused, or what went wrong in one or two words."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        folder = top / "in" / "it"
        shutil.copytree(keep / "whole" / name, folder)
        path = folder / kind.file
        data = mutated(path.read_bytes(), np.random.default_rng([seed, number, *name.encode()]))
        path.write_bytes(data)
        kept = keep / f"{name}-{seed}-{number}"
        kept.with_suffix(path.suffix).write_bytes(data)  # before it is read: a crash leaves it
        end, said = _read(kind, folder)
        outside = {entry.name for entry in top.iterdir()} | {entry.name for entry in (top / "in").iterdir()}
        if outside - {"in", "it"}:
            end, said = "write outside", f"{sorted(outside)}\n"
    if end in ("read", "refused"):
        kept.with_suffix(path.suffix).unlink()
    else:
        kept.with_suffix(".txt").write_text(said)
    return end


def _read(kind: Kind, folder: Path) -> tuple[str, str]:
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(10 * SECONDS)
        kind.read(folder)
    except SgclError as error:
        right = error.message and error.message.isprintable() and len(error.message) < 2500
        return "refused" if right else "message", f"{error!r}\n"
    except MemoryError:
        return "memory", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return "read", ""


def batch(name: str, seed: int, numbers: list[int], keep: Path) -> Counter[str]:
    """Trials in a child with limits on memory and time; the last of them ends it where it crashes or hangs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        try:
            for number in numbers:
                os.write(writer, f"{trial(name, seed, number, keep)}\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as ends:
        counts = Counter(ends.read().splitlines())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        counts["hang" if -code in (signal.SIGALRM, signal.SIGPROF) else "crash"] += 1
    return counts


def work(names: list[str], seed: int, until: float, first: int, step: int, keep: Path) -> Counter[tuple[str, str]]:
    """Batches of all kinds in turn until the time is over."""
    counts: Counter[tuple[str, str]] = Counter()
    while time.monotonic() < until:
        for name in names:
            size = 3 if name == "embedding" else 30
            for end, count in batch(name, seed, [*range(first * size, (first + 1) * size)], keep).items():
                counts[name, end] += count
        first += step
    return counts


def main() -> int:
    """Run, print counts, and fail where there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", choices=[*KINDS], action="append")
    parser.add_argument("--trial", type=int, help="repeat this one alone")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.kind or [*KINDS]
    shutil.rmtree(given.keep / "whole", ignore_errors=True)
    for name in names:
        (given.keep / "whole" / name).mkdir(parents=True)
        KINDS[name].make(given.keep / "whole" / name)
    if given.trial is not None:
        for name in names:
            print(name, trial(name, given.seed, given.trial, given.keep))
        return 0
    print(f"seed {given.seed}, {given.minutes:g} minutes, {given.workers} workers", flush=True)
    until, children = time.monotonic() + 60 * given.minutes, []
    for first in range(given.workers):
        child = os.fork()
        if child == 0:
            counts = work(names, given.seed, until, first, given.workers, given.keep)
            store.write_json(given.keep / f"counts-{first}.json", [[*key, count] for key, count in counts.items()])
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    total: Counter[tuple[str, str]] = Counter()
    for first in range(given.workers):
        for name, end, count in store.read_json(given.keep / f"counts-{first}.json"):
            total[name, end] += count
    for name in names:
        ends = {end: count for (kind, end), count in sorted(total.items()) if kind == name}
        print(f"{name:14s}" + "  ".join(f"{end} {count}" for end, count in ends.items()))
    found = sum(count for (_, end), count in total.items() if end not in ("read", "refused"))
    print(f"{sum(total.values())} files, {found} findings" + (f", kept in {given.keep}" if found else ""))
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
