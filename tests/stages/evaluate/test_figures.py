from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgcl_cli.stages.evaluate.figures import figure_data


def rows(truth: str, positive: list[float], folds: str, model: str = "m") -> list[dict[str, Any]]:
    return [
        {"model": model, "fold": fold, "label": label, "p_n": str(1 - p), "p_t": str(p)}
        for label, p, fold in zip(truth, positive, folds, strict=True)
    ]


def result(*folds: str, task: str = "binary", classes: tuple[str, ...] = ("n", "t")) -> dict[str, Any]:
    values = {name: {"value": 0.5} for name in folds}
    return {
        "task": task,
        "classes": list(classes),
        "confidence": 0.95,
        "models": {"m": {"metrics": {"auroc": {"folds": values}}}},
    }


def test_each_fold_with_both_classes_has_a_curve() -> None:
    found = figure_data(result("1", "2"), rows("nntt" + "tt", [0.1, 0.6, 0.4, 0.9, 0.8, 0.7], "111122"))["m"]
    (curve,) = found.roc
    assert curve.name == "fold 1"
    points = {*zip(curve.false_rate.tolist(), curve.true_rate.tolist(), strict=True)}
    assert {(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)} <= points


def test_a_single_division_is_the_test() -> None:
    (curve,) = figure_data(result("1"), rows("nt", [0.1, 0.9], "11"))["m"].roc
    assert curve.name == "test"


def test_rows_of_other_models_do_not_count() -> None:
    given = rows("nt", [0.1, 0.9], "11") + rows("nt", [0.9, 0.1], "11", model="other")
    (precision,) = figure_data(result("1"), given)["m"].precision_recall
    assert precision.name == "t" and figure_data(result("1"), given)["m"].reliability is None


def test_measurements_are_truth_and_prediction() -> None:
    given = [{"model": "m", "label": "1.5", "predicted": "2"}, {"model": "m", "label": "3", "predicted": "2.5"}]
    found = figure_data(result(task="regression"), given)["m"].measured
    assert found is not None
    assert [column.tolist() for column in found] == [[1.5, 3.0], [2.0, 2.5]]


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_risk_groups_are_divided_at_the_median_of_their_fold(shift: float) -> None:
    risks = [1.0, 2.0, 3.0, 4.0, 1.0 + shift, 2.0 + shift, 3.0 + shift, 4.0 + shift]
    given = [
        {"model": "m", "fold": "12"[n // 4], "time": str(10 - n % 4), "event": "1", "risk": str(risk)}
        for n, risk in enumerate(risks)
    ]
    low, high = figure_data(result(task="survival"), given)["m"].survival
    assert (low.name, high.name) == ("low risk", "high risk")
    assert np.unique(low.time[low.time > 0]).tolist() == [9, 10] and np.unique(high.time[high.time > 0]).tolist() == [
        7,
        8,
    ]
