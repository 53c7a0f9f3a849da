from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.stages.evaluate.scores import Scored
from sgcl_cli.stages.evaluate.tables import (
    matrix,
    patches_csv,
    prediction_cells,
    prediction_columns,
    prediction_rows,
    share_matrix,
)


def entry(value: float | None, low: float | None = None, **why: str) -> dict[str, Any]:
    high = None if low is None else 2 * (value or 0) - low
    return {"value": value, "low": low, "high": high, "reason": "", "no_interval": "", **why}


def test_the_matrix_shares_a_number_for_one_reason() -> None:
    models = {
        "a": {"name": "A", "metrics": {"auroc": entry(0.75, 0.7), "accuracy": entry(0.5)}},
        "b": {"name": "B", "metrics": {"auroc": entry(0.5, no_interval="few"), "accuracy": entry(0.5)}},
        "c": {"name": "C", "metrics": {"auroc": entry(None, reason="one class"), "accuracy": entry(0.5)}},
        "d": {"name": "D", "metrics": {"auroc": entry(0.6, no_interval="few"), "accuracy": entry(0.5)}},
    }
    found = matrix({"models": models})
    assert [*found.columns] == ["AUROC"]
    cells = {name: cell for name, (cell,) in found.rows}
    assert cells == {"A": "0.750\n0.700 to 0.800", "B": "0.500 [1]", "C": "undefined [2]", "D": "0.600 [1]"}
    assert [*found.notes] == ["[1] no interval: few", "[2] undefined: one class"]


def test_the_matrix_of_shares_has_models_by_shares_below_the_whole() -> None:
    none = {"low": None, "high": None, "no_interval": "few"}
    found = {
        "metric": "auroc",
        "names": {"knn": "kNN", "linear": "Linear"},
        "curves": {"knn": {"0.25": [0.5, 0.7], "1": [0.9]}, "linear": {"0.1": [0.5], "0.25": [0.8], "1": [0.9]}},
        "intervals": {
            "knn": {"0.25": none, "1": none},
            "linear": {"0.1": none, "0.25": {"low": 0.7, "high": 0.9}, "1": none},
        },
    }
    shares = share_matrix({"label_efficiency": found})
    assert shares is not None
    assert (shares.corner, shares.columns) == ("AUROC", ["10 % of the patients", "25 % of the patients"])
    assert shares.rows == [("kNN", ["–", "0.600 [1]"]), ("Linear", ["0.500 [1]", "0.800\n0.700 to 0.900"])]
    assert shares.notes == ["[1] no interval: few"]
    assert share_matrix({}) is None and share_matrix({"label_efficiency": None}) is None


def test_predictions_are_one_row_a_model_and_reported_slide(small_cohort: Cohort, small_plan: Plan) -> None:
    values = np.tile([0.25, 0.75], (12, 1))
    models = [Scored(key, key, values, {}, {}, {}) for key in ("knn", "linear")]
    rows = [*prediction_rows(small_cohort, small_plan, models)]
    assert [row["model"] for row in rows] == ["knn"] * 12 + ["linear"] * 12
    first = rows[4]
    assert (first["slide_id"], first["patient_id"], first["fold"]) == ("s04", "p2", "2")
    assert (first["label"], first["predicted"], first["p_normal"], first["p_tumour"]) == (
        "normal",
        "tumour",
        "0.25",
        "0.75",
    )
    assert {*prediction_columns(small_cohort)} == {*first} - {"row"}


def test_other_targets_have_other_columns(small_cohort: Cohort) -> None:
    plain = replace(small_cohort, classes=())
    measured = replace(plain, task="regression", value=np.full(12, 1.5))
    survival = replace(plain, task="survival", time=np.full(12, 24.0), event=np.ones(12, np.int64))
    assert prediction_cells(measured, 0, np.array([2.25])) == {"label": "1.5", "predicted": "2.25"}
    assert prediction_cells(survival, 0, np.array([-0.5])) == {"time": "24", "event": 1, "risk": "-0.5"}
    assert prediction_columns(survival)[-5:] == ["time", "event", "fold", "model", "risk"]


def test_numbers_of_patches_are_listed_with_places_where_they_are_known() -> None:
    columns = {"attention": np.array([0.25, 0.75], np.float32)}
    assert patches_csv(None, columns) == "row,attention\n0,0.25\n1,0.75\n"
    assert patches_csv(np.array([[0, 512], [7, 8]]), columns) == "row,x,y,attention\n0,0,512,0.25\n1,7,8,0.75\n"
