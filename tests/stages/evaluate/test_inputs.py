"""What is evaluated and how it is divided: refusals, warnings, splits."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError, SgclError
from sgcl_cli.probe.data import cohort as cohorts
from sgcl_cli.probe.data import split_files
from sgcl_cli.stages.evaluate import inputs as evaluate_inputs
from sgcl_cli.stages.evaluate import models as evaluate_fit
from sgcl_cli.stages.evaluate import run as stage
from tests.stages.evaluate.made import (
    FAST,
    bag,
    plain,
    planned,
    rows_of,
    run,
    table_of,
    table_with,
    write_slide,
    write_table,
)

pytestmark = pytest.mark.usefixtures("quick")


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
    few = f"; fewer than 5: {patients // 2} patients of class 'a' are too few for 4 of them in each of 5 folds"
    assert why == "no split column" + (few if folds < 5 else "")


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
        (conflicting_duplicates, "slide '000' has two rows with different entries"),
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
        (
            {"features": "{slides}", "labels": "{labels}", "id": "case"},
            LabelError,
            "no column 'case' .*give the name of the column with --id",
        ),
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
        "is it 'tumour', misspelt": [{**rows[0], "label": "Tumour"}, *rows[1:]],
        "means a missing value": [{**rows[0], "label": "NA"}, *rows[1:]],
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
