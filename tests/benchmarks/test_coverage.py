from __future__ import annotations

import numpy as np
import pytest

from benchmarks import coverage


@pytest.mark.parametrize(
    "make",
    [
        coverage.of_classes((9_000, 3_000), 1),
        coverage.of_several(4_000, 3, 1),
        coverage.of_decisions((8_000, 4_000), 1),
        coverage.of_probabilities((6_000, 6_000), 1),
        coverage.of_values(12_000, 1),
    ],
    ids=["classes", "several", "decisions", "probabilities", "values"],
)
def test_the_truth_is_what_very_many_patients_give(make):
    (model, *_), truth = make(np.random.default_rng(0))
    everything = np.ones(len(model.patient), dtype=bool)
    for metric, expected in truth.items():
        assert model.score(metric, everything).value == pytest.approx(expected, abs=0.015), metric


def test_the_truth_of_a_fitted_model_is_what_it_reaches_on_new_patients():
    weight, middle, centre = np.array([2.0, 1.0]), np.array([0.3, 0.1]), np.array([1.0, 0.0])
    rng = np.random.default_rng(0)
    label = np.arange(40_000) % 2
    score = (rng.normal(size=(40_000, 2)) + np.where(label[:, None] == 1, centre, -centre) - middle) @ weight
    found = coverage._reached(weight, middle, centre)
    recalls = [(score > 0)[label == 1].mean(), (score <= 0)[label == 0].mean()]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=0.01)
    pairs = rng.choice(score[label == 1], 40_000) > rng.choice(score[label == 0], 40_000)
    assert found["auroc"] == pytest.approx(pairs.mean(), abs=0.01)


def test_every_fold_gets_its_share_of_each_class():
    fold = coverage.dealt(np.repeat([0, 1], [30, 10]), 5, np.random.default_rng(0))
    assert np.bincount(fold[:30]).tolist() == [6] * 5 and np.bincount(fold[30:]).tolist() == [2] * 5


def test_the_table_says_what_was_found_or_why_there_is_none():
    designs = [
        coverage.Design("few", coverage.of_classes((6, 6), 5)),
        coverage.Design("some", coverage.of_classes((9, 9), 2)),
    ]
    lines = list(coverage.table(designs, 4, 30))
    assert lines[0].startswith("4 sets a design, 30 resamples a set")
    assert "none: fold" in lines[4] and "one patient of class 'a'" in lines[4]
    cells = [cell.strip() for cell in lines[7].strip("|").split("|")]
    assert cells[:2] == ["some", "AUROC"]
    assert 0 <= float(cells[3].split()[0]) <= 1 and 0 < float(cells[4]) < 1
