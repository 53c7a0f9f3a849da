"""Results of a study that was never run."""

from __future__ import annotations

from typing import Any

from benchmarks.study.protocol import Job, Row
from benchmarks.study.table import Line

COMMON = {"epochs": 2, "view": 32}
TASKS = {"her2st": ("auroc", False), "crc5 halves": ("balanced_accuracy", True)}


def score(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "no_interval": "" if low is not None else "1 patient"}


def result(job: Job, value: float, tasks: tuple[str, ...] = ("her2st",)) -> dict[str, Any]:
    scores = {
        task: {"metric": TASKS[task][0], "predictions": "", "linear": score(value, 0.5, 0.9), "knn": score(value)}
        for task in tasks
    }
    cost = None if job.row.encoder else {"images_per_second": 41.6, "hours": 1.5, "memory_gib": 2.0}
    return {
        "row": job.row.name,
        "seed": job.seed,
        "epochs": None if job.row.encoder else 2,
        "cost": cost,
        "scores": scores,
    }


def lines() -> list[Line]:
    """Three seeds of sgcl that were run, and moco that was not."""
    sgcl = Row("sgcl", pretrain={"recipe": "sgcl"})
    seeds = [Job(sgcl, seed) for seed in range(3)]
    late = Job(Row("moco", pretrain={"recipe": "moco"}), 0)
    values = zip(seeds, (0.7, 0.8, 0.9), strict=True)
    both = ("her2st", "crc5 halves")
    return [*(Line(job, result(job, value, both), "done") for job, value in values), Line(late, None, "not run")]
