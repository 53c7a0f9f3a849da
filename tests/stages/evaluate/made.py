"""Feature files and tables of small cohorts, and what a run on them writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.evaluate import inputs as evaluate_inputs

DIM = 6


FAST = {"folds": 5, "mil_epochs": 2, "seeds": 1, "bootstrap": 40, "mil_hidden": 8, "threads": 1, "device": "cpu"}


def write_slide(
    folder: Path,
    slide_id: str,
    features: np.ndarray,
    *,
    label: Sequence[int] | None = None,
    names: Sequence[str] = (),
    images: bool = False,
    **attributes: str,
) -> None:
    count = len(features)
    columns: dict[str, Any] = {}
    if images:
        columns["name"] = [f"{names[label[row]]}/{row}.png" for row in range(count)]
    else:
        grid = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.int64)
        columns |= {"coords": grid * 512, "grid": grid.astype(np.int32)}
    if label is not None:
        columns["label"] = np.asarray(label, np.int16)
        attributes["label_names"] = json.dumps(list(names))
    plain = {"slide_id": slide_id, "encoder": "tiny", "encoder_sha256": "e", "patches_id": "p", "config": "{}"}
    folder.mkdir(parents=True, exist_ok=True)
    with FeatureWriter(folder / f"{slide_id}.h5", f"{slide_id} {features.sum():.6f}", DIM, "float32") as writer:
        writer.append(features)
        writer.finish(columns, {**plain, **attributes})


def bag(slide_id: str, shift: float, least: int = 1) -> np.ndarray:
    rng = np.random.default_rng([*slide_id.encode()])
    features = rng.normal(size=(int(rng.integers(least, 9)), DIM))
    features[: (len(features) + 1) // 2, 0] += shift
    return features


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def table_of(count: int) -> list[dict[str, str]]:
    """Two slides a patient, classes alternating by patient; the eighth slide is called 007."""
    return [
        {
            "slide_id": f"{number:03d}",
            "label": ("normal", "tumour")[number // 2 % 2],
            "patient_id": f"p{number // 2:02d}",
        }
        for number in range(count)
    ]


def run(out: Path, **settings: Any):
    return evaluate(EvaluateConfig(out=str(out), **{**FAST, **settings}))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(out: Path) -> dict[str, bytes]:
    """Every file but run.json, which holds times."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"}


def plain(label: str, number: int) -> dict[str, str]:
    return {"label": label}


def numbers(label: str, number: int) -> dict[str, str]:
    return {"label": f"{(label == 'tumour') * 3 + number / 100:g}"}


def survival(label: str, number: int) -> dict[str, str]:
    return {"months": f"{(5 if label == 'tumour' else 50) + number / 7:g}", "dead": str(int(number % 3 > 0))}


def table_with(path: Path, told: Callable[[str, int], dict[str, str]], **columns: Callable[[int], str]) -> Path:
    rows = []
    for number, row in enumerate(table_of(40)):
        others = {name: column(number) for name, column in columns.items()}
        rows.append(
            {"slide_id": row["slide_id"], "patient_id": row["patient_id"], **told(row["label"], number), **others}
        )
    return write_table(path, rows)


def planned(tmp_path: Path, **settings: Any) -> tuple[Any, Any, Audit]:
    """What would be evaluated and how it would be divided; nothing is fitted."""
    config, audit = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings}), Audit()
    inputs = evaluate_inputs.open_inputs(config, audit)
    cohort = evaluate_inputs.cohort_of(config, inputs, audit)
    return cohort, evaluate_inputs.plan_of(config, inputs, cohort, audit), audit
