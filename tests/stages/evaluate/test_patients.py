from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.stages.evaluate import patients
from sgcl_cli.stages.evaluate.scores import Scored

SLIDES = np.array(["s0", "s1", "s2", "s3", "s4"])
PATIENTS = np.array(["007", "a", "007", "b", "a"])
NONE = np.array([], dtype=np.int64)


def plan() -> Plan:
    """The first fold reports patients 007 and b, the second a's first slide; a's second is reported by none."""
    return Plan((Fold("1", np.array([1, 4]), NONE, np.array([0, 2, 3])), Fold("2", np.array([0]), NONE, np.array([1]))))


def cohort(task: str, classes: tuple[str, ...] = (), **truth: Any) -> Cohort:
    return Cohort(
        level="slide",
        task=task,
        task_from="",
        classes=classes,
        slide_id=SLIDES,
        patient_id=PATIENTS,
        patients_known=True,
        patients_from="",
        files=(),
        split=None,
        row=None,
        **{"label": np.zeros(5, dtype=np.int64), **truth},
    )


def found(cohort: Cohort, *predictions: Any) -> dict[tuple[str, str], dict[str, Any]]:
    models = [
        Scored(f"m{number}", "", np.array(prediction, dtype=np.float64).reshape(5, -1), {}, {}, {})
        for number, prediction in enumerate(predictions)
    ]
    rows = list(patients.rows(cohort, plan(), models))
    assert all(set(row) <= set(patients.columns(cohort)) for row in rows)
    assert len({(row["model"], row["patient_id"]) for row in rows}) == len(rows)
    return {(row["model"], row["patient_id"]): row for row in rows}


def test_probabilities_are_averaged_over_the_reported_slides_of_a_patient() -> None:
    told = np.array([0.1, 0.9, 0.4, 0.7, np.nan])
    of = cohort("binary", ("n", "t"), label=np.array([1, 0, 1, 0, 1]))
    rows = found(of, np.stack([1 - told, told], axis=1), np.tile([1.0, 0.0], (5, 1)))
    assert patients.columns(of) == [*("patient_id", "rows", "label", "fold", "model", "predicted", "p_n", "p_t")]
    assert sorted(rows) == [(model, patient) for model in ("m0", "m1") for patient in ("007", "a", "b")]
    assert rows["m0", "007"] == {
        "patient_id": "007",
        "rows": 2,
        "fold": "1",
        "model": "m0",
        "label": "t",
        "predicted": "n",
        "p_n": "0.75",
        "p_t": "0.25",
    }
    assert (rows["m0", "a"]["rows"], rows["m0", "a"]["fold"], rows["m0", "a"]["p_t"]) == (1, "2", "0.9")


def test_a_patient_with_slides_of_two_classes_has_no_label() -> None:
    of = cohort("binary", ("n", "t"), label=np.array([1, 0, 0, 0, 1]))
    rows = found(of, np.tile([0.5, 0.5], (5, 1)))
    assert (rows["m0", "007"]["label"], rows["m0", "b"]["label"]) == (None, "n")


def test_measurements_are_averaged() -> None:
    rows = found(cohort("regression", value=np.array([1.0, 5, 2, 3, 4])), [2, 7, 6, 9, 0])
    assert rows["m0", "007"] == {
        "patient_id": "007",
        "rows": 2,
        "fold": "1",
        "model": "m0",
        "label": "1.5",
        "predicted": "4",
    }


@pytest.mark.parametrize(("event", "said"), [([1, 0, 1, 0, 1], 1), ([1, 0, 0, 0, 1], None)])
def test_risks_are_averaged_and_times_stay(event: list[int], said: int | None) -> None:
    of = cohort("survival", time=np.array([8.0, 5, 8, 3, 4]), event=np.array(event))
    assert found(of, [2, 7, 6, 9, 0])["m0", "007"] == {
        "patient_id": "007",
        "rows": 2,
        "fold": "1",
        "model": "m0",
        "time": "8",
        "event": said,
        "risk": "4",
    }
