"""sgcl evaluate as a whole: what is written, resumed, and refused."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.probe.models import linear
from sgcl_cli.report import evaluation
from sgcl_cli.stages.evaluate import mil, tables
from sgcl_cli.stages.evaluate import models as evaluate_fit
from sgcl_cli.stages.evaluate import run as stage
from tests.stages.evaluate.made import FAST, content, planned, rows_of, run, table_of, write_table

pytestmark = pytest.mark.usefixtures("quick")


DRAWN = evaluation.pictures


def test_slide_level_writes_everything_it_promises(
    slides: Path, labels: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "pictures", DRAWN)
    monkeypatch.setattr(mil, "fit_fold", lambda *_: pytest.fail("fitted again"))
    (out / "run.json").unlink()
    outcome = run(out, features=str(slides), labels=str(labels))
    assert {path.name for path in out.iterdir()} == {
        *("metrics.json", "metrics.csv", "predictions.csv", "predictions_patients.csv", "splits.csv", "audit.json"),
        *("figures", "attention", "scores", "models", "report.html", "run.json", ".cache"),
    }
    assert {path.name for path in (out / "figures").iterdir()} >= {
        f"{kind}_{model}.{suffix}"
        for kind in ("roc", "pr", "confusion")
        for model in ("mean-pool", "gated-abmil")
        for suffix in ("png", "svg")
    }
    assert not list((out / "figures").glob("reliability_*")), "40 slides are too few for a curve"
    result = json.loads((out / "metrics.json").read_text())
    assert (result["level"], result["task"], result["classes"]) == ("slide", "binary", ["normal", "tumour"])
    assert list(result["models"]) == ["majority", "patch-count", "mean-pool", "knn", "simpleshot", "gated-abmil"]
    assert result["counts"] == {"rows": 40, "slides": 40, "patients": 20, "folds": 5}
    best = result["models"]["mean-pool"]["metrics"]["auroc"]
    assert best["low"] < best["value"] <= best["high"]
    assert best["value"] > 0.7
    assert result["models"]["majority"]["metrics"]["auroc"]["value"] == 0.5
    assert json.loads((out / "run.json").read_text())["result"]["models"] == result["models"]
    shown = dict(outcome.matrix.rows)
    assert outcome.matrix.columns == ["AUROC", "Balanced accuracy", "Macro F1"]
    assert shown["Mean pool, logistic regression"][0] == f"{best['value']:.3f}\n{best['low']:.3f} to {best['high']:.3f}"


def test_every_slide_is_predicted_once_by_a_model_that_did_not_see_its_patient(finished: Path) -> None:
    splits = rows_of(finished / "splits.csv")
    sides: dict[tuple[str, str], set[str]] = {}
    for row in splits:
        sides.setdefault((row["fold"], row["patient_id"]), set()).add(row["split"])
    assert len(sides) == 5 * 20
    assert all(len(where) == 1 for where in sides.values())
    test_fold = {row["slide_id"]: row["fold"] for row in splits if row["split"] == "test"}
    predictions = rows_of(finished / "predictions.csv")
    assert len(predictions) == 6 * 40
    assert all(test_fold[row["slide_id"]] == row["fold"] for row in predictions)
    assert all(abs(float(row["p_normal"]) + float(row["p_tumour"]) - 1) < 1e-6 for row in predictions)
    assert "007" in test_fold


def test_attention_of_a_slide_never_comes_from_a_model_that_saw_it(
    slides: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[set[int], list[int]]] = []
    predict, training = evaluate_fit.training.predict, evaluate_fit.training.BagTraining
    seen: set[int] = set()

    class Watched(training):
        def __init__(self, model, cohort, train, validation, **others):
            seen.clear()
            seen.update(train.tolist(), validation.tolist())
            super().__init__(model, cohort, train, validation, **others)

    def watched(model, cohort, chosen):
        asked.append((set(seen), chosen.tolist()))
        return predict(model, cohort, chosen)

    monkeypatch.setattr(evaluate_fit.training, "BagTraining", Watched)
    monkeypatch.setattr(evaluate_fit.training, "predict", watched)
    run(tmp_path / "out", features=str(slides), labels=str(labels))
    final = [(known, chosen) for known, chosen in asked if not known & set(chosen)]
    assert sorted(bag for _, chosen in final for bag in chosen) == list(range(40))
    files = sorted((tmp_path / "out/attention").iterdir())
    assert len(files) == 40
    table = rows_of(files[7])
    assert files[7].name == "007.csv"
    assert list(table[0]) == ["row", "x", "y", "attention"]
    assert sum(float(row["attention"]) for row in table) == pytest.approx(1, abs=1e-4)


def test_twice_is_identical_and_the_order_of_the_table_does_not_matter(
    slides: Path, finished: Path, tmp_path: Path
) -> None:
    shuffled = table_of(40)
    np.random.default_rng(0).shuffle(shuffled)
    other = write_table(tmp_path / "shuffled.csv", shuffled)
    run(tmp_path / "two", features=str(slides), labels=str(other))
    one, two = content(finished), content(tmp_path / "two")
    one.pop("report.html"), two.pop("report.html")  # they name the command, and so the table's path
    assert one == two


def test_shuffled_test_labels_leave_every_fitted_number_unchanged(slides: Path, tmp_path: Path) -> None:
    def split_table(name: str, flip: bool) -> Path:
        rows = table_of(40)
        for number, row in enumerate(rows):
            row["split"] = "test" if number >= 28 else "train"
            if flip and number >= 28:
                row["label"] = {"normal": "tumour", "tumour": "normal"}[row["label"]]
        return write_table(tmp_path / name, rows)

    results = []
    for name, flip in (("a", False), ("b", True)):
        run(tmp_path / f"out-{name}", features=str(slides), labels=str(split_table(f"{name}.csv", flip)))
        fitted = json.loads((tmp_path / f"out-{name}/metrics.json").read_text())["models"]
        predictions = rows_of(tmp_path / f"out-{name}/predictions.csv")
        numbers = [[row["slide_id"], row["model"], row["p_normal"], row["p_tumour"]] for row in predictions]
        attention = {key: value for key, value in content(tmp_path / f"out-{name}").items() if "attention" in key}
        results.append(
            ([model["fits"] for model in fitted.values()], numbers, attention, fitted["gated-abmil"]["metrics"])
        )
    assert results[0][:3] == results[1][:3]
    assert results[0][3] != results[1][3]


def test_again_returns_what_is_there(slides: Path, labels: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(stage, "fit", lambda *_: pytest.fail("fitted again"))
    again = run(out, features=str(slides), labels=str(labels), threads=2)
    result = json.loads((out / "metrics.json").read_text())
    assert again.data["models"] == result["models"]
    assert again.matrix == tables.matrix(result)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_missing_file_is_made_again(slides: Path, labels: Path, out: Path) -> None:
    before = content(out)
    (out / "report.html").unlink()
    run(out, features=str(slides), labels=str(labels))
    assert (out / "report.html").exists()
    assert {**content(out), "report.html": b""} == {**before, "report.html": b""}


def test_other_settings_or_inputs_are_refused_by_name(slides: Path, labels: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--folds was 5, is 3") as caught:
        run(out, features=str(slides), labels=str(labels), folds=3)
    assert caught.value.exit_code == 2
    changed = table_of(40)
    changed[0]["label"] = changed[1]["label"] = "tumour"
    with pytest.raises(ConfigError, match="--labels has changed"):
        run(out, features=str(slides), labels=str(write_table(tmp_path / "other.csv", changed)))
    run(out, features=str(slides), labels=str(labels), folds=3, overwrite=True)
    assert json.loads((out / "metrics.json").read_text())["counts"]["folds"] == 3


@pytest.mark.parametrize("files", [27, pytest.param(34, marks=pytest.mark.slow)])
def test_killed_while_writing_and_run_again(
    slides: Path, labels: Path, finished: Path, tmp_path: Path, files: int
) -> None:
    out = tmp_path / "out"
    script = f"""
import os, signal, sys
from sgcl_cli.artefacts import store
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.models import linear
from sgcl_cli.stages.evaluate import evaluate
linear.C_PATH = (0.01, 1.0)
written, atomic = 0, store.atomic
def counted(path):
    global written
    written += 1
    if written > {files}:
        store.temporary_name(path).parent.mkdir(parents=True, exist_ok=True)
        store.temporary_name(path).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return atomic(path)
store.atomic = counted
evaluate(EvaluateConfig(features={str(slides)!r}, labels={str(labels)!r}, out={str(out)!r}, **{FAST!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "run.json").exists()
    run(out, features=str(slides), labels=str(labels))
    ours, whole = content(out), content(finished)
    assert ours.keys() == whole.keys()
    for name in ("predictions.csv", "splits.csv", "metrics.csv", "metrics.json"):
        assert ours[name] == whole[name]


def test_dry_run_says_the_plan_and_writes_nothing(slides: Path, labels: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", features=str(slides), labels=str(labels), dry_run=True)
    assert not (tmp_path / "out").exists()
    assert outcome.total == 40
    assert outcome.data["ledger"]["matched"] == 40
    assert outcome.data["expected_seconds"] > 0
    told = dict(outcome.headline)
    assert (told["division"], told["expected time"]) == ("5 folds by patient, stratified by class", "under a minute")
    assert told["labelled without features"] == "0"


def test_a_changed_setting_refits_only_what_it_touches(
    slides: Path, labels: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((out / "metrics.json").read_text())["models"]
    fitted = []
    monkeypatch.setattr(mil, "fit_fold", lambda *_: pytest.fail("bag models were fitted again"))
    monkeypatch.setattr(linear, "fit", lambda *_, **__: pytest.fail("linear models were fitted again"))
    votes = evaluate_fit.knn.votes
    monkeypatch.setattr(evaluate_fit.knn, "votes", lambda *a, **k: fitted.append(k["ks"]) or votes(*a, **k))
    run(out, features=str(slides), labels=str(labels), knn_k=3, overwrite=True)
    after = json.loads((out / "metrics.json").read_text())["models"]
    assert set(fitted) == {(3,)}
    assert [key for key in before if before[key] != after[key]] == ["knn"]


def test_the_models_asked_for_are_the_models_fitted(slides: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"features": str(slides), "labels": str(labels), "models": "mean, clam-sb,transmil"}
    cohort, plan, _ = planned(tmp_path, **settings)
    config = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings, "seeds": 2})
    models = {model.key: model for model in evaluate_fit.suite(config, cohort)}
    assert list(models)[-3:] == ["mean", "clam-sb", "transmil"]
    fitted = models["clam-sb"].fit(plan.folds[0])
    assert fitted.test.shape == (2, len(plan.folds[0].test), 2)
    assert fitted.validation.shape == (2, len(plan.folds[0].validation), 2)
    assert (fitted.test[0] != fitted.test[1]).any()
    with pytest.raises(ConfigError, match="there is no 'resnet'"):
        EvaluateConfig(out="o", features="f", models="mean,resnet")


def test_thresholds_come_from_fits_that_did_not_see_the_validation_labels(
    slides: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing left to choose, validation labels must not reach the predictions of validation rows."""
    monkeypatch.setattr(linear, "C_PATH", (1.0,))
    settings = {**FAST, "features": str(slides), "labels": str(labels), "knn_k": 3, "mil_epochs": 1}
    cohort, plan, _ = planned(tmp_path, **settings)
    fold, config = plan.folds[0], EvaluateConfig(out=str(tmp_path / "out"), **settings)
    flipped = cohort.label.copy()
    flipped[fold.validation] = 1 - flipped[fold.validation]
    lied = dataclasses.replace(cohort, label=flipped)
    for model, other in zip(*(evaluate_fit.suite(config, one)[1:] for one in (cohort, lied)), strict=True):
        told, said = model.fit(fold), other.fit(fold)
        assert told.validation.shape == (1, len(fold.validation), 2)
        np.testing.assert_array_equal(told.validation, said.validation)
        refitted = model.key != "gated-abmil"
        assert (told.test != said.test).any() == refitted, model.key
