"""What scores are made from: names of folds, means over folds, and the reasons why there is no interval."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sgcl_cli.probe.scores.reported import (
    Score,
    fold_names,
    mean_of_scores,
    rows_per_patient,
    too_few,
    too_mixed,
    why_no_interval,
)


def test_folds_are_in_the_order_of_their_numbers() -> None:
    assert fold_names(SimpleNamespace(fold=np.array(["10", "2", "0", "2", "9"]))) == ["0", "2", "9", "10"]


def test_the_mean_passes_over_folds_without_the_metric() -> None:
    folds = {"0": Score(0.5), "1": Score(None, "one class"), "2": Score(1.0)}
    assert mean_of_scores(folds) == (0.75, "")


def test_a_mean_of_nothing_has_the_first_reason() -> None:
    assert mean_of_scores({"0": Score(None, "one class"), "1": Score(None, "no rows")}) == (None, "one class")


@pytest.mark.parametrize(
    ("resamples", "patients", "expected"),
    [
        (0, 20, "no resamples (--bootstrap 0)"),
        (100, 9, "9 patients, fewer than 10"),
        (100, 1, "1 patient, fewer than 10"),
        (100, 10, "reason of auroc"),
    ],
)
def test_why_there_is_no_interval(resamples: int, patients: int, expected: str) -> None:
    patient = np.repeat([f"p{n}" for n in range(patients)], 2)  # rows do not count
    reported = SimpleNamespace(patient=patient, why_no_interval=lambda metric: f"reason of {metric}")
    assert why_no_interval(reported, "auroc", resamples) == expected


def test_a_fold_with_one_patient_of_a_class() -> None:
    label, patient = np.zeros(7, np.int64), np.array(list("abcdeff"))
    fold = np.array(["0", "0", "0", "0", "0", "1", "1"])
    expected = "fold 1 has one patient of site 'north', whom resampling cannot vary"
    assert too_few({0: "north"}, label, fold, patient, "site") == expected
    assert too_few({0: "north"}, label, np.full(7, "0"), patient, "site") == ""


def test_mixed_patients_need_four_in_each_fold() -> None:
    patient, label = np.array(list("aabcdefg")), np.array([0, 1, 0, 1, 0, 1, 0, 1])
    uneven = np.array(["0", "0", "0", "0", "1", "1", "1", "1"])
    assert too_mixed(label, uneven, patient) == "fold 0 has 3 patients, fewer than 4, and patients hold several classes"
    assert too_mixed(label, np.array(["0"] * 5 + ["1"] * 3), patient).startswith("fold 1 has 3 patients")
    assert too_mixed(label, np.full(8, "0"), patient) == ""
    assert too_mixed(np.array([0, 0, 0, 1, 0, 1, 0, 1]), uneven, patient) == ""


def test_rows_of_each_class_per_patient() -> None:
    number, counts = rows_per_patient(np.array(["b", "a", "b", "b"]), np.array([0, 2, 1, 0]), 3)
    assert number.tolist() == [1, 0, 1, 1]
    assert counts.tolist() == [[0, 0, 1], [2, 1, 0]]
