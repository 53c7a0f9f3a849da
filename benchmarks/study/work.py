"""One job: pretrain or open an encoder, embed every labelled set with it, and score frozen probes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import peak_mib
from benchmarks.study import feeding, learning, purity
from benchmarks.study.material import Material, Task
from benchmarks.study.protocol import Job
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_checkpoint
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig, EvaluateConfig, PretrainConfig
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.pretrain import pretrain

PROBES = ("linear", "knn")


@dataclass(frozen=True)
class Bench:
    """Folders, data and hardware settings of the jobs."""

    folder: Path
    material: Material
    pretrain: Mapping[str, Any]
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None

    @property
    def run(self) -> dict[str, Any]:
        """Hardware settings common to all commands."""
        return {"device": self.device, "threads": self.threads}

    def corpus(self, job: Job) -> Path:
        """The patches for the pretraining of a job."""
        return self.material.corpora["transductive" if job.row.group == "transductive" else "inductive"]

    def place(self, job: Job, key: str) -> Path:
        """The folder of a job."""
        name = "".join(c if c.isalnum() else "-" for c in job.row.name)
        return self.folder / "runs" / f"{name}-{job.seed}-{key[:8]}"


def do(bench: Bench, job: Job, key: str, run: Path) -> dict[str, Any]:
    """The result of a job, JSON values: ``scores`` by task and probe, ``warnings``; ``cost`` and ``learning`` of a pretraining.

    Intermediate files stay in the folder of the job until it is done, so that it can be resumed.

    :param run: folder of the pretraining of the encoder.
    :raises SgclError: as the commands; Interrupted if pretraining was stopped.
    """
    row, place = job.row, bench.place(job, key)
    result: dict[str, Any] = {"row": row.name, "seed": job.seed, "epochs": None, "cost": None, "warnings": []}
    if row.pretrains:
        result |= _pretrained(bench, job, run)
    tasks = [task for task in bench.material.tasks if _scored(job, task)]
    sets = {name: bench.material.sets[name] for task in tasks for name, _ in (task.train, task.test)}
    if row.of is None:
        encoders = dict.fromkeys(sets, row.encoder or str(run))
        sides: dict[str, int | None] = {name: given.side for name, given in sets.items()}
    else:
        shutil.rmtree(place / "features", ignore_errors=True)  # they may be from encoders that are written again below
        encoders = feeding.encoders(row, run, PatchIndex.open(bench.corpus(job)), sets, place / "encoders")
        sides = dict.fromkeys(sets)  # each encoder has its own input size
    for name, given in sets.items():
        embed(
            EmbedConfig(
                patches=str(given.folder),
                encoder=encoders[name],
                out=str(place / "features" / name),
                input_size=sides[name],
                groups=None if given.groups is None else str(given.groups),
                seed=job.seed,
                workers=bench.workers,
                **bench.run,
            )
        )
    result["scores"] = {task.name: _score(bench, task, place) for task in tasks}
    for path in place.glob("pretrain/*.pt"):
        path.unlink()
    for name in ("features", "encoders"):
        shutil.rmtree(place / name, ignore_errors=True)
    return result


def _pretrained(bench: Bench, job: Job, run: Path) -> dict[str, Any]:
    """The entries of a result about its pretraining, which is run or resumed first."""
    settings = job.settings(bench.pretrain)
    keep = {"keep": int(settings["epochs"])} if job.row.purity else {}
    where = {"patches": str(bench.corpus(job)), "out": str(run), "workers": bench.workers}
    config = PretrainConfig.resolve({**settings, **keep, **where, **bench.run})
    trained = pretrain(config)
    found = {
        "epochs": trained.data["epochs"],
        "cost": _cost(trained.data["images_per_second"], trained.data["steps"] * config.batch),
        "warnings": trained.warnings,
        "learning": learning.of_run(run),
    }
    if job.row.purity:
        found["purity"] = purity.of_run(bench.corpus(job), run)
    return found


def epochs_done(bench: Bench, job: Job, key: str) -> int | None:
    """Complete epochs of a stopped pretraining; None if it has not begun."""
    last = bench.place(job, key) / "pretrain" / "last.pt"
    return int(load_checkpoint(last)["position"][0]) if last.exists() else None


def _cost(rate: float, seen: int) -> dict[str, float]:
    """Cost of training, including earlier parts of an interrupted run; ``memory_gib`` is peak memory (of the GPU, if used)."""
    if torch.cuda.is_initialized():  # a GPU was used
        memory = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    else:
        memory = peak_mib() / 2**10
    return {"images_per_second": rate, "hours": seen / rate / 3600, "memory_gib": memory}


def _scored(job: Job, task: Task) -> bool:
    return job.scored_on_development if task.development else job.scored_on_test


def _score(bench: Bench, task: Task, place: Path) -> dict[str, Any]:
    """Scores of the probes: metric, predictions file, and by probe the headline with its interval."""

    def features(part: tuple[str, str | None]) -> str:
        folder = place / "features" / part[0]
        return str(folder if part[1] is None else folder / f"{part[1]}.h5")

    out = place / "evaluation" / task.name.replace(" ", "-")
    config = EvaluateConfig(
        train=features(task.train),
        test=features(task.test),
        labels=None if task.patients is None else str(task.patients),
        out=str(out),
        knn_k=20,
        overwrite=True,
        **bench.run,
    )
    models = evaluate(config).data["models"]
    kept = ("value", "low", "high", "no_interval")
    scores = {name: {key: models[name]["metrics"][task.metric][key] for key in kept} for name in PROBES}
    return {"metric": task.metric, "predictions": str(out.relative_to(bench.folder) / "predictions.csv"), **scores}


def stored(folder: Path, key: str) -> dict[str, Any] | None:
    """The stored result of a job; None if it is not done."""
    path = folder / "results" / f"{key}.json"
    return store.read_json(path) if path.exists() else None


def keep(folder: Path, key: str, result: Mapping[str, Any]) -> None:
    """Write a result atomically."""
    store.write_json(folder / "results" / f"{key}.json", result)
