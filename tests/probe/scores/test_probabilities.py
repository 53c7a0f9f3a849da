"""Probabilities as scores take them: when a class has too few patients for an interval."""

from __future__ import annotations

import numpy as np

from sgcl_cli.probe.scores.probabilities import Probabilities


def made(truth: list[int], patient: list[str]) -> Probabilities:
    rows = len(truth)
    fold = np.array(["0", "1"] * (rows // 2))
    return Probabilities(np.array(truth), np.full((rows, 2), 0.5), fold, np.array(patient), ("benign", "tumour"))


def test_enough_patients_of_each_class() -> None:
    assert made([0] * 6 + [1] * 6, [f"p{n}" for n in range(12)]).why_no_interval("auroc") == ""


def test_the_class_with_too_few_patients_is_named() -> None:
    few = made([0] * 8 + [1] * 4, [f"p{n}" for n in range(12)])
    assert few.why_no_interval("auroc") == "4 patients of class 'tumour', fewer than 5"


def test_patients_count_and_not_rows() -> None:
    same = made([0] * 6 + [1] * 6, [*(f"p{n}" for n in range(6)), *["q"] * 6])
    assert same.why_no_interval("auroc") == "1 patient of class 'tumour', fewer than 5"


def test_no_shares_of_right_answers() -> None:
    some = made([0, 1], ["a", "b"])
    assert (some.witnesses("auroc"), list(some.unseen("auroc")), some.most_undefined) == (0, [], 1.0)
