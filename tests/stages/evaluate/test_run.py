from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError, SgclError
from sgcl_cli.probe.data import cohort as cohorts
from sgcl_cli.probe.data import split_files
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.models import linear
from sgcl_cli.progress import Silent
from sgcl_cli.report import evaluation, figures
from sgcl_cli.stages.evaluate import cache, efficiency, evaluate, mil, report, tables
from sgcl_cli.stages.evaluate import inputs as evaluate_inputs
from sgcl_cli.stages.evaluate import models as evaluate_fit
from sgcl_cli.stages.evaluate import run as stage

DIM = 6
FAST = {"folds": 5, "mil_epochs": 2, "seeds": 1, "bootstrap": 40, "mil_hidden": 8, "threads": 1, "device": "cpu"}


DRAWN = evaluation.pictures


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Two C, and no figures: drawing dozens of them is what a run costs; one test draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "C_PATH", (0.01, 1.0))
        patch.setattr(evaluation, "pictures", lambda drawn: {})
        patch.setattr(report, "_map", lambda finished: {})
        yield


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


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 40 slides of 20 patients."""
    folder = tmp_path_factory.mktemp("slides")
    for row in table_of(40):
        write_slide(folder, row["slide_id"], bag(row["slide_id"], 2.0 * (row["label"] == "tumour")))
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables") / "labels.csv", table_of(40))


@pytest.fixture(scope="module")
def finished(slides: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the plain command at slide level; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run(out, features=str(slides), labels=str(labels))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 12 slides with labelled patches of three classes."""
    folder = tmp_path_factory.mktemp("patches")
    for number in range(12):
        rng = np.random.default_rng(number)
        label = np.arange(12) % 4 - 1
        features = rng.normal(size=(12, DIM))
        features[np.arange(12), label] += 2
        write_slide(folder, f"s{number:02d}", features, label=label, names=("fat", "gland", "tumour"))
    return folder


def run(out: Path, **settings: Any):
    return evaluate(EvaluateConfig(out=str(out), **{**FAST, **settings}))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(out: Path) -> dict[str, bytes]:
    """Every file but run.json, which holds times."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"}


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


@pytest.mark.parametrize(("patients", "folds"), [(40, 5), (16, 2), (6, 2)])
def test_folds_are_fewer_where_they_would_hold_fewer_than_four_of_a_class(
    tmp_path: Path, patients: int, folds: int
) -> None:
    rows = [{"slide_id": f"{n:03d}", "label": "ab"[n % 2], "patient_id": f"p{n}"} for n in range(patients)]
    for row in rows:
        write_slide(tmp_path / "slides", row["slide_id"], bag(row["slide_id"], 0))
    table = write_table(tmp_path / "labels.csv", rows)
    settings = {"features": str(tmp_path / "slides"), "labels": str(table), "folds": None}
    cohort, plan, audit = planned(tmp_path, **settings)
    assert len(plan.folds) == folds
    config = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings})
    inputs = evaluate_inputs.open_inputs(config, audit)
    ((_, division, why),) = [
        row for row in evaluate_inputs.describe(config, inputs, cohort, plan) if row[0] == "Division"
    ]
    assert division.startswith(f"{folds} folds by patient")
    few = f"; fewer than 5, for {patients // 2} patients of class 'a' are too few for 4 of them in each of 5"
    assert why == "no split column" + (few if folds < 5 else "")


def test_other_settings_or_inputs_are_refused_by_name(slides: Path, labels: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--folds was 5, is 3") as caught:
        run(out, features=str(slides), labels=str(labels), folds=3)
    assert caught.value.exit_code == 2
    changed = table_of(40)
    changed[0]["label"] = changed[1]["label"] = "tumour"
    with pytest.raises(ConfigError, match="--labels has other content now"):
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


def one_class(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["label"] = "tumour"


def one_patient_of_a_class(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["label"] = "tumour" if row["patient_id"] == "p03" else "normal"


def patient_on_two_sides(rows: list[dict[str, str]]) -> None:
    for number, row in enumerate(rows):
        row["split"] = "test" if number % 2 else "train"


def validation_is_test(rows: list[dict[str, str]]) -> None:
    for number, row in enumerate(rows):
        row["split"] = "train" if number < 20 else ("val", "test")[number % 2]


def conflicting_duplicates(rows: list[dict[str, str]]) -> None:
    rows.append({**rows[0], "label": "tumour"})


def strangers(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["slide_id"] = "x" + row["slide_id"]


def without_features(rows: list[dict[str, str]]) -> None:
    rows += [{"slide_id": f"x{number}", "label": "normal", "patient_id": f"x{number}"} for number in range(4)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_class, "one class only: 'tumour'"),
        (one_patient_of_a_class, "class 'tumour' has 1 patient"),
        (patient_on_two_sides, "are in both 'train' and 'test'"),
        (validation_is_test, "are in both 'val' and 'test'"),
        (conflicting_duplicates, "slide '000' stands twice with different entries"),
        (strangers, "none of the 40 feature files has a label"),
        (without_features, "4 of 44 labelled slides have no features"),
    ],
)
def test_an_audit_error_stops_before_anything_is_fitted(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage, message: str
) -> None:
    monkeypatch.setattr(stage, "fit", lambda *_: pytest.fail("fitted"))
    rows = table_of(40)
    damage(rows)
    with pytest.raises(LabelError, match=message) as caught:
        run(tmp_path / "out", features=str(slides), labels=str(write_table(tmp_path / "bad.csv", rows)))
    assert caught.value.exit_code == 2
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    assert audit["passed"] is False
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"features": "{slides}"}, LabelError, "no patch in .* has a label"),
        ({"features": "{slides}", "level": "slide"}, LabelError, "slide level needs a table"),
        (
            {"features": "{slides}", "labels": "{labels}", "target": "grade"},
            LabelError,
            "no column 'grade' .found: label, ",
        ),
        ({"features": "{slides}", "labels": "{labels}", "id": "case"}, LabelError, "no column 'case' .*--id names"),
        (
            {"features": "{slides}", "labels": "{labels}", "task": "multiclass", "level": "patch"},
            LabelError,
            "no patch",
        ),
        ({"features": "{patches}", "task": "binary"}, ConfigError, "--task is binary and there are 3 classes"),
        ({"features": "nowhere"}, ArtefactError, "no such folder: nowhere"),
        ({"features": "{slides}", "labels": "nowhere.csv"}, LabelError, "cannot read the table nowhere.csv"),
        ({"train": "{patches}", "test": "{patches}"}, LabelError, "'s00' is in both --train and --test"),
    ],
)
def test_bad_input_is_refused(
    slides: Path,
    patches: Path,
    labels: Path,
    tmp_path: Path,
    settings: dict[str, str],
    kind: type[SgclError],
    message: str,
) -> None:
    places = {"slides": slides, "patches": patches, "labels": labels}
    with pytest.raises(kind, match=message):
        run(tmp_path / "out", **{key: value.format(**places) for key, value in settings.items()})


def test_tables_that_a_spreadsheet_has_spoilt_are_refused_by_what_is_wrong(slides: Path, tmp_path: Path) -> None:
    rows = table_of(40)
    numbers = [{**row, "label": f"{number * 0.37:.2f}"} for number, row in enumerate(rows)]
    spoilt = {
        "lost leading zeros": [{**row, "slide_id": row["slide_id"].lstrip("0") or "0"} for row in rows],
        "decimal commas, first '0,00'": [{**row, "label": row["label"].replace(".", ",")} for row in numbers],
        "39 different numbers, and '?'": [{**numbers[0], "label": "?"}, *numbers[1:]],
        "is it 'tumour', spelt otherwise": [{**rows[0], "label": "Tumour"}, *rows[1:]],
        "stands for a missing value": [{**rows[0], "label": "NA"}, *rows[1:]],
    }
    for why, table in spoilt.items():
        with pytest.raises(LabelError, match=re.escape(why)):
            planned(tmp_path, features=str(slides), labels=str(write_table(tmp_path / "spoilt.csv", table)))


def test_a_slide_without_patient_id_is_warned_of(slides: Path, tmp_path: Path) -> None:
    rows = table_of(40)
    table = write_table(tmp_path / "labels.csv", [{**rows[0], "patient_id": ""}, *rows[1:]])
    _, _, audit = planned(tmp_path, features=str(slides), labels=str(table))
    assert any(
        "1 slides have no patient_id, each counts as a patient of its own, first '000'" in w for w in audit.warnings
    )


def test_warnings_are_reported_and_stand_in_the_report(slides: Path, tmp_path: Path) -> None:
    rows = table_of(36)
    table = write_table(tmp_path / "labels.csv", [*rows, rows[0]])
    reporter = Silent()
    evaluate(EvaluateConfig(features=str(slides), labels=str(table), out=str(tmp_path / "out"), **FAST), reporter)
    page = (tmp_path / "out/report.html").read_text()
    for warning in ("4 slides with features have no label", "1 rows stand twice and were merged"):
        assert any(warning in text for text in reporter.warnings)
        assert warning in page


def test_without_matplotlib_figures_are_skipped_with_one_warning(
    slides: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "AVAILABLE", False)
    reporter = Silent()
    evaluate(EvaluateConfig(features=str(slides), labels=str(labels), out=str(tmp_path / "out"), **FAST), reporter)
    assert reporter.warnings == ["matplotlib is not installed: the figures are left out"]
    assert not (tmp_path / "out/figures").exists()
    assert (tmp_path / "out/report.html").exists()


def test_names_that_look_like_code_are_shown_as_text(tmp_path: Path) -> None:
    evil = "[red]<script>alert(1)<"
    rows = []
    for number in range(8):
        name = evil if number == 3 else f"s{number}"
        label = ("=cmd()", "<b>$x$")[number % 2]
        write_slide(tmp_path / "features", name, bag(name, number % 2, least=3))
        rows.append({"slide_id": name, "label": label})
    table = write_table(tmp_path / "labels.csv", rows)
    run(tmp_path / "out", features=str(tmp_path / "features"), labels=str(table), folds=4)
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert (tmp_path / f"out/attention/{evil}.csv").exists()
    predictions = rows_of(tmp_path / "out/predictions.csv")
    assert {row["label"] for row in predictions} == {"'=cmd()", "<b>$x$"}


def test_the_report_names_the_command(slides: Path, labels: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(features="my features", labels="l.csv", out="o", folds=3, allow_missing=True, threads=1)
    assert config.command_line() == "sgcl evaluate 'my features' --out o --labels l.csv --allow-missing --folds 3"


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


def test_sites_are_left_out_whole(slides: Path, tmp_path: Path) -> None:
    table = table_with(tmp_path / "l.csv", plain, site=lambda number: "abc"[number // 4 % 3])
    cohort, plan, audit = planned(tmp_path, features=str(slides), labels=str(table), cv="site")
    assert [fold.name for fold in plan.folds] == ["a", "b", "c"]
    for fold in plan.folds:
        assert set(cohort.site[fold.test]) == {fold.name}
        assert fold.name not in cohort.site[fold.fitted]
    assert "sites" not in [finding.code for finding in audit.findings]


def test_labels_that_go_with_sites_are_warned_about(slides: Path, tmp_path: Path) -> None:
    table = table_with(tmp_path / "l.csv", plain, site=lambda number: "ab"[(number // 2) % 2 if number < 34 else 0])
    _, _, audit = planned(tmp_path, features=str(slides), labels=str(table))
    assert [finding.code for finding in audit.findings] == ["sites"]


def test_a_former_division_is_used_again_and_has_one_hash(slides: Path, labels: Path, finished: Path, tmp_path: Path):
    cohort, plan, _ = planned(
        tmp_path, features=str(slides), labels=str(labels), splits=str(finished / "splits.csv"), seed=5
    )
    rows = split_files.rows_of(plan, cohort.slide_id, cohort.patient_id)
    assert rows == rows_of(finished / "splits.csv")
    stored = json.loads((finished / "metrics.json").read_text())["protocol"]["splits"]
    assert stored == split_files.identity(plan, cohort.slide_id, cohort.patient_id)


def test_clams_overlapping_splits_are_repetitions_and_intervals_say_so(
    slides: Path, labels: Path, tmp_path: Path
) -> None:
    """Every file draws its test slides from all: the slides of patients p00 to p13 are reported by both."""
    (tmp_path / "splits").mkdir()
    tests = ([f"{n:03d}" for n in range(28)], [f"{n:03d}" for n in range(24)] + [f"{n:03d}" for n in range(36, 40)])
    for number, test in enumerate(tests):
        train = [f"{n:03d}" for n in range(40) if f"{n:03d}" not in test]
        lines = [f"{row},{train[row] if row < len(train) else ''},,{test[row]}" for row in range(28)]
        (tmp_path / "splits" / f"splits_{number}.csv").write_text("\n".join([",train,val,test", *lines]))
    outcome = run(
        tmp_path / "out", features=str(slides), labels=str(labels), splits=str(tmp_path / "splits"), models="mean"
    )
    result = json.loads((tmp_path / "out/metrics.json").read_text())
    assert result["protocol"]["division"] == "repetitions" and result["interval"].startswith("each patient drawn once")
    assert any(
        "12 of 16 reported patients are reported by several of the 2 divisions" in said for said in outcome.warnings
    )
    entry = result["models"]["mean-pool"]["metrics"]["auroc"]
    assert entry["low"] < entry["value"] < entry["high"]
    made = [row for row in rows_of(tmp_path / "out/predictions.csv") if row["model"] == "mean-pool"]
    assert [[row["slide_id"] for row in made if row["fold"] == fold] for fold in "12"] == [*tests]
    for fold, score in entry["folds"].items():
        mine = [row for row in made if row["fold"] == fold]
        positive, negative = (
            [float(row["p_tumour"]) for row in mine if row["label"] == name] for name in ("tumour", "normal")
        )
        wins = [(one > other) + (one == other) / 2 for one in positive for other in negative]
        assert score["value"] == pytest.approx(np.mean(wins), abs=1e-6)
    patients = [row for row in rows_of(tmp_path / "out/predictions_patients.csv") if row["model"] == "mean-pool"]
    assert len([row for row in patients if row["patient_id"] == "p00"]) == 2
    page = (tmp_path / "out/report.html").read_text()
    assert "once for all repetitions, which share patients" in page and "several repetitions may report one" in page
    again = run(
        tmp_path / "again",
        features=str(slides),
        labels=str(labels),
        splits=str(tmp_path / "out/splits.csv"),
        models="mean",
    )
    assert again.data["models"]["mean-pool"]["metrics"]["auroc"]["low"] == entry["low"]


def test_the_same_features_under_two_names_are_refused(slides: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(slides, tmp_path / "features")
    write_slide(folder, "040", bag("000", 0.0))
    table = write_table(tmp_path / "l.csv", [*table_of(40), {"slide_id": "040", "label": "normal", "patient_id": "x"}])
    with pytest.raises(LabelError, match="'000' and '040' have equal features"):
        planned(tmp_path, features=str(folder), labels=str(table))


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


def test_label_efficiency_leaves_shares_without_a_class_out(slides: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"features": str(slides), "labels": str(labels), "label_efficiency": True}
    cohort, plan, _ = planned(tmp_path, **settings)
    config = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings})
    models = [model for model in evaluate_fit.suite(config, cohort) if model.key == "simpleshot"]
    fits = cache.Fits(tmp_path, cohort)
    found = efficiency.curves(config, cohort, plan, models, fits, Silent())
    assert found["metric"] == "auroc"
    assert {share: len(values) for share, values in found["curves"]["simpleshot"].items()} == {"0.1": 5, "1": 1}
    assert found["left_out"] == [
        "1 % of the patients is left out: fold 1: 0.01 of 16 patients holds no patient of class 'normal'"
    ]


def test_features_beyond_half_of_memory_stay_on_disk(
    slides: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"features": str(slides), "labels": str(labels)}
    loaded, plan, _ = planned(tmp_path, **settings)
    monkeypatch.setattr(evaluate_inputs, "memory_bytes", lambda: 1000)
    mapped, _, _ = planned(tmp_path, **settings)
    assert not isinstance(loaded.files[0].features, np.memmap)
    assert all(isinstance(file.features, np.memmap) for file in mapped.files)
    assert isinstance(cohorts.bag_rows(mapped)[0], np.memmap)
    config = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings})
    here, there = (evaluate_fit.suite(config, cohort)[-1].fit(plan.folds[0]).test for cohort in (loaded, mapped))
    np.testing.assert_array_equal(here, there)
