"""Groups, order and captions of the slides shown as heatmaps, from the rows of predictions.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Caption:
    """The caption of a slide.

    :ivar group: the slides it is shown with.
    :ivar sure: certainty of the model, by which slides of a group are ordered.
    :ivar text: the caption.
    """

    group: str
    sure: float
    text: str


def captions(result: Mapping[str, Any], predictions: Rows) -> dict[str, Caption]:
    """Captions by slide, from the predictions of the model with attention.

    Slides are grouped by their true class, by whether the predicted value is above the median, or by whether the risk is
    above the median of its fold (risks of two folds have no common zero).

    :param result: the content of metrics.json.
    :param predictions: rows of predictions.csv.
    """
    rows = [row for row in predictions if row["model"] == result["attention_model"]]
    if result["task"] == "regression":
        return _measured(rows)
    if result["task"] == "survival":
        return _survival(rows)
    return {row["slide_id"]: _of_class(row) for row in rows}


def _of_class(row: Mapping[str, Any]) -> Caption:
    probability = float(row[f"p_{row['label']}"])
    text = f"{row['label']}, to which the model gives a probability of {100 * probability:.0f}\u00a0%"
    return Caption(f"{row['label']} slides", probability, text)


def _measured(rows: Rows) -> dict[str, Caption]:
    middle = float(np.median([float(row["predicted"]) for row in rows])) if rows else 0.0
    found = {}
    for row in rows:
        predicted = float(row["predicted"])
        group = f"slides of {'high' if predicted > middle else 'low'} predicted values"
        text = f"measured {float(row['label']):.4g}, predicted {predicted:.4g}"
        found[row["slide_id"]] = Caption(group, abs(predicted - middle), text)
    return found


def _survival(rows: Rows) -> dict[str, Caption]:
    of_fold: dict[str, list[float]] = {}
    for row in rows:
        of_fold.setdefault(row["fold"], []).append(float(row["risk"]))
    found = {}
    for row in rows:
        above = float(row["risk"]) - float(np.median(of_fold[row["fold"]]))
        risk = "high" if above > 0 else "low"
        happened = "event" if int(row["event"]) else "censored"
        text = f"{risk} predicted risk, {happened} at {float(row['time']):.4g}"
        found[row["slide_id"]] = Caption(f"slides of {risk} predicted risk", abs(above), text)
    return found
