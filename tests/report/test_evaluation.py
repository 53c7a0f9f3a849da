from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgcl_cli.report import evaluation
from sgcl_cli.report.evaluation import Evaluation, Part, SlideResult
from sgcl_cli.report.figures import Curve
from sgcl_cli.report.page import METRIC_NAMES, render


def metrics(folds: int, no_interval: str) -> dict[str, Any]:
    score = {"value": 0.75, "reason": ""}
    edges = (None, None) if no_interval else (0.6, 0.9)
    entry = {**score, "low": edges[0], "high": edges[1], "no_interval": no_interval, "pooled": score}
    return {name: {**entry, "folds": {str(fold + 1): score for fold in range(folds)}} for name in METRIC_NAMES}


def finished(*, folds: int = 2, level: str = "slide", classes=("a", "b"), no_interval: str = "") -> Evaluation:
    counts = np.eye(len(classes), dtype=int).tolist()
    models = {
        key: {"name": f"Model {key}", "metrics": metrics(folds, no_interval), "confusion": counts}
        for key in ("majority", "linear", "abmil")
    }
    if no_interval:
        row = {"patient_id": "p1", "rows": 3, **dict.fromkeys(METRIC_NAMES)}
        models["linear"]["per_patient"] = [row, {**row, "patient_id": "p2"}]
    protocol = {
        "division": "folds" if folds > 1 else "given",
        "validation": 0.2,
        "c_path": [0.1, 1.0],
        "knn_k": 20,
        "knn_temperature": 0.07,
        "mil_hidden": 8,
        "mil_dropout": 0.25,
        "mil_lr": 1e-3,
        "mil_epochs": 5,
        "mil_patience": 2,
    }
    result = {
        "level": level,
        "unit": "slide",
        "classes": list(classes),
        "patients_known": True,
        "counts": {"rows": 40, "slides": 4, "patients": 1, "folds": folds},
        "confidence": 0.95,
        "resamples": 2000,
        "protocol": protocol,
        "models": models,
    }
    curve = Curve("fold 1", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.5)
    return Evaluation(
        result=result,
        inferred=[("Level", level, "")],
        warnings=[],
        parts=[Part("1", "training", 3, [2] * len(classes))],
        curves={"majority": [], "linear": [curve], "abmil": []},
        encoder="tiny",
        command="sgcl evaluate",
        provenance=[],
        slides=[
            SlideResult(f"s{number}", "a", "1", {"majority": 0.5, "linear": number / 100, "abmil": 0.5})
            for number in range(80, 0, -1)
        ]
        if level == "slide"
        else [],
    )


def titles(page) -> list[str]:
    return [table.title for table in page.tables]


def test_every_model_but_the_baseline_has_figures_where_they_are_defined():
    assert list(evaluation.pictures(finished())) == ["roc_linear", "confusion_linear", "confusion_abmil"]


def test_the_most_doubtful_slides_come_first_and_the_rest_is_counted():
    table = evaluation.page(finished(), []).tables[-1]
    assert [row[0] for row in table.rows[:2]] == ["s1", "s2"]
    assert len(table.rows) == 60
    assert "60 of 80 slides; all are in predictions.csv." in table.note


def test_what_a_page_holds_depends_on_the_evaluation():
    assert titles(evaluation.page(finished(), [])) == [
        "Fold by fold",
        "Who was fitted, who was reported",
        "Slide by slide",
    ]
    single = evaluation.page(finished(folds=1, level="patch", no_interval="2 patients, fewer than 10"), [])
    assert titles(single) == ["Patient by patient", "Who was fitted, who was reported"]
    assert [row[:2] for row in single.tables[0].rows] == [["Model linear", "p1"], ["", "p2"]]


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        ({}, ["2 disjoint folds", "conditional on the fitted models", "2000 resamples", "Gated attention"]),
        ({"folds": 1}, ["The division into training and test was given"]),
        ({"level": "patch"}, ["Weighted kNN: cosine similarity, k 20, votes exp(similarity / 0.07)"]),
        ({"no_interval": "too few"}, ["There are no intervals: too few."]),
    ],
)
def test_the_methods_say_what_was_done(arguments, phrases):
    text = " ".join(evaluation.page(finished(**arguments), []).methods)
    for phrase in phrases:
        assert phrase in text


@pytest.mark.parametrize(
    ("classes", "title"),
    [
        (("a", "b"), "How well do the features tell a from b?"),
        (("a", "b", "c"), "How well do the features tell a, b and c?"),
        (tuple("abcdef"), "How well do the features tell 6 classes apart?"),
    ],
)
def test_the_title_names_the_classes(classes, title):
    page = evaluation.page(finished(classes=classes), [])
    assert page.title == title
    assert title in render(page)


def test_counts_are_spoken():
    facts = evaluation.page(finished(level="patch"), []).facts
    assert facts == ["patch level", "40 patches", "4 slides", "1 patient", "2 folds", "encoder tiny"]
