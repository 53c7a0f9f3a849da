"""predictions_patients.csv: predictions of patients, the means of those of their slides or patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.stages.evaluate.scores import Scored, reported_rows
from sgcl_cli.stages.evaluate.tables import prediction_cells, prediction_columns


def columns(cohort: Cohort) -> list[str]:
    """The columns of predictions.csv, with ``rows`` in place of slide_id and row."""
    kept = [name for name in prediction_columns(cohort) if name not in ("slide_id", "row", "patient_id")]
    return ["patient_id", "rows", *kept]


def rows(cohort: Cohort, plan: Plan, models: Sequence[Scored]) -> Iterator[dict[str, Any]]:
    """One row for each model, patient and fold that tests the patient.

    The prediction is the mean of those of the patient's ``rows`` tested slides or patches: of probabilities, values or log
    risks. The truth of a regression is averaged too; a label, time or event is None where slides or patches differ in it.
    """
    reported, fold_of = reported_rows(cohort, plan)
    groups = _groups(cohort.patient_id[reported], fold_of)
    for model in models:
        for patient, fold, places in groups:
            mine = reported[places]
            yield {
                "patient_id": patient,
                "rows": len(mine),
                "fold": fold,
                "model": model.key,
                **_cells(cohort, mine, model.prediction[places].mean(0)),
            }


def _groups(patient: NDArray[np.str_], fold: NDArray[np.str_]) -> list[tuple[str, str, NDArray[np.intp]]]:
    """(patient, fold, indices of its rows), sorted by patient and fold."""
    order = np.lexsort((fold, patient))
    patient, fold = patient[order], fold[order]
    starts = np.flatnonzero((patient[1:] != patient[:-1]) | (fold[1:] != fold[:-1])) + 1
    return [
        (str(patient[0]), str(fold[0]), order)
        for patient, fold, order in zip(
            np.split(patient, starts), np.split(fold, starts), np.split(order, starts), strict=True
        )
    ]


def _cells(cohort: Cohort, mine: NDArray[np.int64], prediction: NDArray[np.float64]) -> dict[str, Any]:
    row = prediction_cells(cohort, int(mine[0]), prediction)
    if cohort.value is not None:
        return row | {"label": f"{cohort.value[mine].mean():.8g}"}
    truths = {"label": cohort.label} if cohort.classes else {"time": cohort.time, "event": cohort.event}
    for name, truth in truths.items():
        if truth is not None and len(np.unique(truth[mine])) > 1:
            row[name] = None
    return row
