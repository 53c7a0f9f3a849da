from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sgcl_cli.report import evaluation
from sgcl_cli.report.evaluation import Efficiency, Evaluation, FigureData, FoldPart, SlideResult
from sgcl_cli.report.figures import Bins, Curve, PrecisionRecall, mean_curve
from sgcl_cli.report.page import Section, render
from sgcl_cli.report.survival_figures import SurvivalCurve

METRIC_NAMES = ("auroc", "balanced_accuracy", "macro_f1", "accuracy")


def metrics(folds: int, no_interval: str) -> dict[str, Any]:
    score = {"value": 0.75, "reason": ""}
    edges = (None, None) if no_interval else (0.6, 0.9)
    entry = {**score, "low": edges[0], "high": edges[1], "no_interval": no_interval, "pooled": score}
    return {name: {**entry, "folds": {str(fold + 1): score for fold in range(folds)}} for name in METRIC_NAMES}


def finished(*, folds: int = 2, level: str = "slide", classes=("a", "b"), no_interval: str = "") -> Evaluation:
    counts = np.eye(len(classes), dtype=int).tolist()
    models = {
        key: {
            "name": f"Model {key}",
            "metrics": metrics(folds, no_interval),
            "confusion": counts,
            "fits": {"1": {"epochs": [5]} if key == "abmil" and level == "slide" else {}},
        }
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
        parts=[FoldPart("1", "training", 3, [2] * len(classes))],
        figure_data={"linear": FigureData(roc=[curve])},
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
    return [section.title for section in page.sections if section]


def tables(page) -> dict:
    return {table.title: table for section in page.sections for table in section.tables}


def test_every_model_but_the_baseline_has_figures_where_they_are_defined():
    assert list(evaluation.pictures(finished())) == ["overview", "roc_linear", "confusion_linear", "confusion_abmil"]


def test_two_models_with_curves_share_one_roc_of_the_means_of_their_folds():
    curves = [
        Curve(f"fold {fold}", np.array([0.0, x, 1.0]), np.array([0.0, 0.5, 1.0])) for fold, x in ((1, 0), (2, 0.5))
    ]
    told = replace(finished(), figure_data={key: FigureData(roc=curves) for key in ("linear", "abmil")})
    shown = evaluation.pictures(told)
    assert list(shown)[:2] == ["overview", "overview_roc"]
    assert evaluation.page(told, shown).sections[0].pictures == [shown["overview"], shown["overview_roc"]]
    mean = mean_curve("mean", curves)
    assert np.interp(0.25, mean.false_rate, mean.true_rate) == pytest.approx((0.625 + 0.25) / 2)


def test_folded_details_open_by_a_click_and_details_that_matter_do_not():
    text = render(evaluation.page(finished(), evaluation.pictures(finished())))
    assert text.index("At a glance") < text.index("<details>") < text.index("Slide by slide")


def test_fits_that_used_every_epoch_are_counted_among_the_methods():
    told = finished()
    said = " ".join(evaluation.page(told, {}).methods)
    assert "All 5 epochs were used by 1 of 1 fits of Model abmil; more (--mil-epochs) may give better models." in said
    told.result["models"]["abmil"]["fits"]["1"]["epochs"] = [4]
    assert "epochs were used by" not in " ".join(evaluation.page(told, {}).methods)


def test_the_most_doubtful_slides_come_first_and_the_rest_is_counted():
    table = tables(evaluation.page(finished(), {}))["Slide by slide"]
    assert [row[0] for row in table.rows[:2]] == ["s1", "s2"]
    assert len(table.rows) == 60
    assert "60 of 80 slides; all are in predictions.csv." in table.note


def test_what_a_page_holds_depends_on_the_evaluation():
    told = finished()
    assert titles(evaluation.page(told, evaluation.pictures(told))) == [
        "At a glance",
        "Model linear",
        "Model abmil",
        "Fold by fold",
        "Division into folds",
        "Slide by slide",
    ]
    single = evaluation.page(finished(folds=1, level="patch", no_interval="2 patients, fewer than 10"), {})
    assert titles(single) == ["Patient by patient", "Division into folds"]
    assert [row[:2] for row in tables(single)["Patient by patient"].rows] == [["Model linear", "p1"], ["", "p2"]]


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        ({}, ["2 disjoint folds", "conditional on the fitted models", "2000 resamples", "Model abmil: on all patches"]),
        ({"folds": 1}, ["The division into training and test was given"]),
        (
            {"level": "patch"},
            ["Weighted kNN: cosine similarity, k 20, votes exp(similarity / 0.07)", "Logistic regression"],
        ),
        ({"no_interval": "too few"}, ["There are no intervals: too few."]),
    ],
)
def test_the_methods_say_what_was_done(arguments, phrases):
    text = " ".join(evaluation.page(finished(**arguments), {}).methods)
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
    page = evaluation.page(finished(classes=classes), {})
    assert page.title == title
    assert title in render(page)


def test_counts_are_spoken():
    facts = evaluation.page(finished(level="patch"), {}).facts
    assert facts == ["patch level", "40 patches", "4 slides", "1 patient", "2 folds", "encoder tiny"]


def test_calibration_and_thresholds_are_tables_with_their_numbers():
    told = finished()
    headline = {"value": 0.123, "low": 0.1, "high": 0.2, "no_interval": ""}
    shares = {
        name: headline | {"value": value}
        for name, value in zip(("sensitivity", "specificity", "ppv", "npv"), (0.9, 0.8, 0.7, 0.6), strict=True)
    }
    told.result["models"]["linear"] |= {
        "calibration": {"ece": headline, "brier": headline | {"value": 0.25}},
        "thresholds": [
            {
                "rule": "Youden",
                "values": {"1": 0.4, "2": 0.61, "3": None},
                "metrics": shares,
                "rests_on": {fold: {"positive": n, "negative": 9} for fold, n in (("1", 3), ("2", 5), ("3", 0))},
            }
        ],
    }
    found = tables(evaluation.page(told, {}))
    assert found["Calibration"].rows == [["Model linear", "0.123 (0.100–\u20600.200)", "0.250 (0.100–\u20600.200)"]]
    row = found["Decisions at thresholds from validation"].rows[0]
    assert row[:4] == ["Model linear", "Youden", "0.4 to 0.61", "0 to 5"]
    assert [cell.split()[0] for cell in row[4:]] == ["0.900", "0.800", "0.700", "0.600"]


def test_label_efficiency_is_a_figure_and_a_table():
    told = replace(
        finished(), efficiency=Efficiency("auroc", {"Probe": {0.1: [0.5, 0.7], 1.0: [0.9]}}, ["1 % left out"])
    )
    page = evaluation.page(told, evaluation.pictures(told))
    assert tables(page)["Label efficiency"].rows == [["Probe", "0.600 ± 0.141", "0.900"]]
    section = next(section for section in page.sections if section.title == "Label efficiency")
    assert section.pictures and section.notes == ["1 % left out"]


def test_the_ledger_and_given_sections_are_shown():
    told = replace(finished(), ledger=[("labelled", 12, "a, b")], sections=[Section("Attention", notes=["no patches"])])
    page = evaluation.page(told, {})
    assert tables(page)["Slides found and left out"].rows == [["labelled", 12, "a, b"]]
    assert "Attention" in titles(page)


def test_other_tasks_have_their_own_figures_metrics_and_title():
    score = {
        "value": 0.7,
        "reason": "",
        "low": None,
        "high": None,
        "no_interval": "few",
        "pooled": {"value": 0.6, "reason": ""},
    }
    told = finished(classes=())
    for model in told.result["models"].values():
        model.pop("confusion"), model.pop("per_patient", None)
        model["metrics"] = {"c_index": score | {"folds": {"1": score, "2": score}}}
    told.result["task"] = "survival"
    assert "Cox regression" in " ".join(evaluation.page(told, {}).methods)
    curve = SurvivalCurve("high", *(np.array([1.0]) for _ in range(4)), np.array([1.0, 2.0]))
    told = replace(
        told,
        figure_data={
            "linear": FigureData(survival=[curve], p=0.5),
            "abmil": FigureData(measured=(np.ones(2), np.ones(2))),
        },
    )
    shown = evaluation.pictures(told)
    assert list(shown) == ["kaplan_meier_linear", "measured_abmil"]
    page = evaluation.page(told, shown)
    assert page.title == "How well do the features order patients by risk?"
    assert page.metric_names == {"c_index": "C-index"}
    assert tables(page)["Fold by fold"].columns == ["Model", "Rows", "C-index"]
    render(page)


def test_probabilities_have_figures_of_retrieval_and_reliability():
    bins = Bins(np.linspace(0, 1, 3), np.array([1, 1]), np.array([0.2, 0.8]), np.array([0.0, 1.0]))
    curve = PrecisionRecall("b", np.array([1.0, 0.0]), np.array([0.5, 1.0]), 0.7, 0.5)
    told = replace(finished(), figure_data={"linear": FigureData(precision_recall=[curve], reliability=bins)})
    assert list(evaluation.pictures(told)) == [
        "overview",
        *("pr_linear", "reliability_linear", "confusion_linear", "confusion_abmil"),
    ]


def test_one_picture_a_model_shares_one_section():
    told = finished(classes=())
    told.result["task"] = "regression"
    for model in told.result["models"].values():
        model.pop("confusion")
    values = (np.arange(3.0), np.arange(3.0))
    told = replace(told, figure_data={key: FigureData(measured=values) for key in ("linear", "abmil")})
    page = evaluation.page(told, evaluation.pictures(told))
    assert titles(page)[:2] == ["At a glance", "Model by model"]
    assert len(next(section for section in page.sections if section.title == "Model by model").pictures) == 2
