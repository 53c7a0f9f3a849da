"""Evaluations of other levels and targets: patches, folders of images, measurements, survival."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate import evaluate
from tests.stages.evaluate.made import (
    DIM,
    FAST,
    numbers,
    planned,
    rows_of,
    run,
    survival,
    table_of,
    table_with,
    write_slide,
    write_table,
)

pytestmark = pytest.mark.usefixtures("quick")


def test_patch_level_from_features_alone(patches: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", features=str(patches))
    result = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (result["level"], result["task"]) == ("patch", "multiclass")
    assert result["counts"] == {"rows": 108, "slides": 12, "patients": 12, "folds": 5}
    assert result["models"]["linear"]["metrics"]["auroc"]["value"] > 0.8
    assert result["models"]["knn"]["metrics"]["auroc"]["value"] > 0.8
    assert not (tmp_path / "out/attention").exists()
    assert outcome.data["models"].keys() == {"majority", "linear", "knn", "simpleshot"}
    row = rows_of(tmp_path / "out/predictions.csv")[0]
    assert (row["slide_id"], row["row"], row["label"]) == ("s00", "1", "fat")


def test_training_and_test_folders_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        label = np.arange(60) % 3
        features = rng.normal(size=(60, DIM))
        features[np.arange(60), label] += 3
        write_slide(tmp_path / folder, "images", features, label=label, names=("x", "y", "z"), images=True)
    reporter = Silent()
    config = EvaluateConfig(train=str(tmp_path / "a"), test=str(tmp_path / "b"), out=str(tmp_path / "out"), **FAST)
    outcome = evaluate(config, reporter)
    auroc = {key: model["metrics"]["auroc"] for key, model in outcome.data["models"].items()}
    assert auroc["linear"]["value"] > 0.9
    assert auroc["knn"]["value"] > 0.9
    assert auroc["linear"]["low"] is not None
    assert any("no patients are known for the images" in warning for warning in reporter.warnings)
    assert {row["split"] for row in rows_of(tmp_path / "out/splits.csv")} == {"train", "val", "test"}


def test_a_fold_of_one_class_gives_null_with_a_reason(slides: Path, tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in table_of(40)]
    for row in rows:
        if row["patient_id"] in ("p00", "p02"):
            row["split"] = "test"
    table = write_table(tmp_path / "one.csv", rows)
    outcome = run(tmp_path / "out", features=str(slides), labels=str(table))
    auroc = outcome.data["models"]["mean-pool"]["metrics"]["auroc"]
    assert auroc["value"] is None
    assert auroc["reason"] == "only class 'normal' is present"
    assert dict(outcome.matrix.rows)["Mean pool, logistic regression"][0] == "undefined [1]"
    assert outcome.matrix.notes[0] == "[1] undefined: only class 'normal' is present"
    assert "per_patient" in outcome.data["models"]["mean-pool"]


def test_measurements_are_predicted_and_scored(slides: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", features=str(slides), labels=str(table_with(tmp_path / "l.csv", numbers)))
    result = outcome.data
    assert (result["task"], result["classes"]) == ("regression", [])
    assert list(result["models"]) == ["majority", "patch-count", "mean-pool", "gated-abmil"]
    assert result["models"]["mean-pool"]["metrics"]["spearman"]["value"] > 0.3
    assert result["models"]["majority"]["metrics"]["spearman"]["reason"] == "all predicted values are equal"
    row = rows_of(tmp_path / "out/predictions.csv")[0]
    assert list(row) == ["slide_id", "patient_id", "label", "fold", "model", "predicted"]
    told = {what: (value, why) for what, value, why in _found(tmp_path / "out")}
    assert told["Task"] == ("regression", "the target has 40 different numbers, not all whole")


def _found(out: Path) -> list[tuple[str, str, str]]:
    page = (out / "report.html").read_text()
    parts = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page, re.S)
    plain = [(what, re.sub(r"<.*?>", "|", told)) for what, told in parts]
    return [
        (what, told.split("|")[0].strip(), told.split("|")[1].strip() if "|" in told else "") for what, told in plain
    ]


def test_survival_is_found_by_its_columns_and_scored(slides: Path, tmp_path: Path) -> None:
    table = table_with(tmp_path / "l.csv", survival)
    outcome = run(tmp_path / "out", features=str(slides), labels=str(table), time="months", event="dead")
    result = outcome.data
    assert (result["task"], result["classes"]) == ("survival", [])
    assert result["models"]["mean-pool"]["metrics"]["c_index"]["value"] > 0.6
    assert result["models"]["majority"]["metrics"]["c_index"]["value"] == 0.5
    assert 0 <= result["models"]["mean-pool"]["risk_groups"]["log_rank_p"] <= 1
    assert list(rows_of(tmp_path / "out/predictions.csv")[0]) == [
        *("slide_id", "patient_id", "time", "event", "fold", "model", "risk")
    ]


def test_the_task_is_inferred_from_the_table(slides: Path, tmp_path: Path) -> None:
    def months_and_events(label: str, number: int) -> dict[str, str]:
        return dict(zip(("time", "event"), survival(label, number).values(), strict=True))

    table = table_with(tmp_path / "s.csv", months_and_events)
    cohort, plan, _ = planned(tmp_path, features=str(slides), labels=str(table))
    assert cohort.task == "survival"
    assert all(cohort.event[fold.test].any() and not cohort.event[fold.test].all() for fold in plan.folds)
    table = table_with(tmp_path / "c.csv", lambda label, number: {"label": str(number // 2 % 2 + 7)})
    assert planned(tmp_path, features=str(slides), labels=str(table))[0].classes == ("7", "8")
    cohort, _, _ = planned(tmp_path, features=str(slides), labels=str(table), task="regression")
    assert set(cohort.value.tolist()) == {7.0, 8.0}
