"""Small cohorts with features, evaluated and predicted on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.config import PredictConfig
from sgcl_cli.probe.mil.models import MODELS

DIM = 6
FAST: dict[str, Any] = {
    "mil_epochs": 2,
    "seeds": 2,
    "bootstrap": 0,
    "mil_hidden": 8,
    "threads": 1,
    "device": "cpu",
    "folds": 3,
}
BAG_MODELS = ",".join(MODELS)


def write_slide(
    folder: Path, slide_id: str, features: np.ndarray, *, label: int | None = None, **attributes: str
) -> None:
    count = len(features)
    grid = np.stack([np.arange(count), np.zeros(count)], axis=1)
    columns: dict[str, Any] = {"coords": grid.astype(np.int64) * 512, "grid": grid.astype(np.int32)}
    if label is not None:
        columns["label"] = np.full(count, label, np.int16)
        attributes["label_names"] = json.dumps(["normal", "tumour"])
    plain = {"slide_id": slide_id, "encoder": "tiny", "encoder_sha256": "e", "patches_id": "p", "config": "{}"}
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureWriter(folder / f"{slide_id}.h5", slide_id, features.shape[1], "float32") as writer:
        writer.append(features.astype(np.float32))
        writer.finish(columns, {**plain, **attributes}, {"patch_size_level0": 512, "mpp_actual": 0.5})


def cohort(folder: Path, count: int = 12, *, labelled: bool = False, start: int = 0, **attributes: str) -> Path:
    """Slides of a patient each, two classes in turn."""
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        features = rng.normal(size=(int(rng.integers(3, 9)), DIM))
        features[:, 0] += 2 * (number % 2)
        write_slide(folder, f"s{number:02d}", features, label=number % 2 if labelled else None, **attributes)
    return folder


def table(path: Path, target: Callable[[int], dict[str, object]], count: int = 12) -> Path:
    with path.open("w", newline="") as file:
        rows = [{"slide_id": f"s{number:02d}", "patient_id": f"p{number}", **target(number)} for number in range(count)]
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TARGETS: dict[str, Callable[[int], dict[str, object]]] = {
    "classes": lambda number: {"label": ("normal", "tumour")[number % 2]},
    "regression": lambda number: {"label": 0.5 + number},
    "survival": lambda number: {"time": 1 + number, "event": int(number % 3 > 0)},
}


def applied(result: Path, out: Path, features: Path | None = None, **changes: Any) -> PredictConfig:
    given = {"result": str(result), "features": str(features or result.parent / "features"), "out": str(out)}
    return PredictConfig(**{**given, "device": "cpu", "threads": 1, **changes})
