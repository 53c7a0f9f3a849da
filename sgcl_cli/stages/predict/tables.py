"""Rows of predictions.csv and folds.csv, and a summary of the predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.results import Matrix
from sgcl_cli.stages.predict.applied import Applied, Rows


def places(rows: Rows) -> list[str]:
    """The columns that identify a row."""
    return ["slide_id", *(["row", "x", "y"] if rows.row is not None else [])]


def columns(card: Mapping[str, Any]) -> list[str]:
    """The columns of a prediction: predicted and p_<class>; for regression predicted; for survival risk."""
    if card["classes"]:
        return ["predicted", *(f"p_{name}" for name in card["classes"])]
    return ["risk"] if card["task"] == "survival" else ["predicted"]


def _place(rows: Rows, i: int) -> dict[str, Any]:
    file = rows.files[rows.file_of[i]]
    if rows.row is None:
        return {"slide_id": file.slide_id}
    row = int(rows.row[i])
    x, y = (None, None) if file.coords is None else file.coords[row].tolist()
    return {"slide_id": file.slide_id, "row": row, "x": x, "y": y}


def _values(card: Mapping[str, Any], values: NDArray[np.float64], start: str = "p_") -> dict[str, str]:
    if card["classes"]:
        return {f"{start}{name}": f"{value:.8g}" for name, value in zip(card["classes"], values, strict=True)}
    name = "risk" if card["task"] == "survival" else "predicted"
    return {name if start == "p_" else f"{start}{name}": f"{values[0]:.8g}"}


def _named(card: Mapping[str, Any], values: NDArray[np.float64]) -> dict[str, str]:
    return {"predicted": card["classes"][int(values.argmax())]} if card["classes"] else {}


def spreads(card: Mapping[str, Any]) -> list[str]:
    """The columns of standard deviations over folds."""
    return [f"sd_{name.removeprefix('p_')}" for name in columns(card) if name != "predicted" or not card["classes"]]


def ensemble(card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]) -> Iterator[dict[str, Any]]:
    """One row for each model and slide or patch: mean and standard deviation over the folds used, and their number."""
    for key, one in applied.items():
        mean, spread, count = one.mean, one.spread, one.used.sum(0)
        for i in range(len(rows)):
            sd = _values(card, spread[i], "sd_") if count[i] > 1 else {}
            given = {**_named(card, mean[i]), **_values(card, mean[i]), **sd}
            yield {**_place(rows, i), "model": key, **given, "folds": int(count[i])}


def each(
    card: Mapping[str, Any], rows: Rows, fitted: NDArray[np.bool_], applied: Mapping[str, Applied]
) -> Iterator[dict[str, Any]]:
    """One row for each model, fold and slide or patch.

    :param fitted: bool (F, files), whether a fold was fitted on a slide.
    """
    for key, one in applied.items():
        for number, (fold, values) in enumerate(one.folds.items()):
            for i in range(len(rows)):
                seen = "yes" if fitted[number, rows.file_of[i]] else "no"
                given = {**_named(card, values[i]), **_values(card, values[i])}
                yield {**_place(rows, i), "model": key, "fold": fold, "fitted_on": seen, **given}


def matrix(data: Mapping[str, Any]) -> Matrix:
    """Models by classes, numbers of slides or patches; by lowest, median and highest prediction where there are none."""
    predicted = data["predicted"]
    columns = [*next(iter(predicted.values()))]
    rows = [
        (data["models"][key], [f"{value:.4g}" if isinstance(value, float) else f"{value:,}" for value in row.values()])
        for key, row in predicted.items()
    ]
    counted = [f"{'patches' if data['level'] == 'patch' else 'slides'} by predicted class"]
    whole = all(isinstance(value, int) for value in next(iter(predicted.values())).values())
    return Matrix("model", columns, rows, counted if whole else [])


def summary(card: Mapping[str, Any], applied: Mapping[str, Applied]) -> dict[str, Any]:
    """By model the number of rows predicted as each class, or the range of the predicted values."""
    found: dict[str, Any] = {}
    for key, one in applied.items():
        mean = one.mean
        if card["classes"]:
            counts = np.bincount(mean.argmax(1), minlength=len(card["classes"])).tolist()
            found[key] = dict(zip(card["classes"], counts, strict=True))
        else:
            found[key] = {"lowest": float(mean.min()), "median": float(np.median(mean)), "highest": float(mean.max())}
    return found
