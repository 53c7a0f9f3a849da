"""Data of the figures of ``sgcl evaluate``, from the rows of predictions.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.scores import calibration, metrics, survival
from sgcl_cli.report import figures, survival_figures
from sgcl_cli.report.evaluation import FigureData

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]


def figure_data(result: Mapping[str, Any], rows: Rows) -> dict[str, FigureData]:
    """Data of the figures of each model, by key.

    :param result: the content of metrics.json.
    :param rows: of predictions.csv.
    """
    kinds = {"regression": _measured, "survival": _survival}
    draw = kinds.get(result["task"], _classes)
    return {key: draw(result, key, [row for row in rows if row["model"] == key]) for key in result["models"]}


def _classes(result: Mapping[str, Any], key: str, rows: Rows) -> FigureData:
    classes: Sequence[str] = result["classes"]
    number = {name: index for index, name in enumerate(classes)}
    truth = np.array([number[row["label"]] for row in rows], dtype=np.int64)
    probability = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows], dtype=np.float64)
    curves = _fold_curves if len(classes) == 2 else _class_curves
    return FigureData(
        roc=curves(result, key, rows, truth, probability),
        precision_recall=_precision_recall(classes, truth, probability),
        reliability=_reliability(truth, probability),
    )


def _reliability(truth: NDArray[np.int64], probability: Floats) -> figures.Bins | None:
    """Bins of the reliability curve; None where there are too few rows."""
    if len(truth) < calibration.FEWEST_ROWS:
        return None
    bins = calibration.reliability(truth, probability)
    return figures.Bins(bins.edges, bins.count, bins.stated, bins.observed)


def _fold_curves(
    result: Mapping[str, Any], key: str, rows: Rows, truth: NDArray[np.int64], probability: Floats
) -> list[figures.Curve]:
    folds: Mapping[str, Mapping[str, Any]] = result["models"][key]["metrics"]["auroc"]["folds"]
    fold_of = np.array([row["fold"] for row in rows])
    curves = []
    for name, score in folds.items():
        mine = fold_of == name
        if len(np.unique(truth[mine])) == 2:
            curve_name = f"fold {name}" if len(folds) > 1 else "test"
            curves.append(figures.Curve(curve_name, *metrics.roc(truth[mine], probability[mine], 1), score["value"]))
    return curves


def _class_curves(
    result: Mapping[str, Any], key: str, rows: Rows, truth: NDArray[np.int64], probability: Floats
) -> list[figures.Curve]:
    curves = []
    for number, name in enumerate(result["classes"]):
        positive = (truth == number).astype(np.int64)
        if 0 < positive.sum() < len(positive):
            two = np.stack([1 - probability[:, number], probability[:, number]], axis=1)
            area = metrics.score("auroc", positive, two, ("rest", name)).value
            curves.append(figures.Curve(name, *metrics.roc(truth, probability, number), area))
    return curves


def _precision_recall(
    classes: Sequence[str], truth: NDArray[np.int64], probability: Floats
) -> list[figures.PrecisionRecall]:
    found = []
    for number in [1] if len(classes) == 2 else range(len(classes)):
        share = float((truth == number).mean())
        if 0 < share < 1:
            curve = metrics.precision_recall(truth, probability, number)
            found.append(figures.PrecisionRecall(classes[number], *curve, share))
    return found


def _measured(result: Mapping[str, Any], key: str, rows: Rows) -> FigureData:
    columns = [np.array([float(row[name]) for row in rows]) for name in ("label", "predicted")]
    return FigureData(measured=(columns[0], columns[1]))


def _survival(result: Mapping[str, Any], key: str, rows: Rows) -> FigureData:
    """Survival of rows with high and low risk, divided at the median of each fold: risks of two folds have no common zero."""
    time, risk = (np.array([float(row[name]) for row in rows]) for name in ("time", "risk"))
    event = np.array([int(row["event"]) for row in rows])
    high = survival.above_median(risk, np.array([row["fold"] for row in rows]))
    if not high.any():
        return FigureData()
    groups = []
    for name, members in (("low risk", ~high), ("high risk", high)):
        curve = survival.kaplan_meier(time[members], event[members], confidence=result["confidence"])
        groups.append(
            survival_figures.SurvivalCurve(
                name, curve.time, curve.survival, curve.low, curve.high, np.sort(time[members])
            )
        )
    return FigureData(survival=groups, p=survival.log_rank(time, event, high))
