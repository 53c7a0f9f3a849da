from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from sgcl_cli.probe.scores import metrics, uncertainty
from sgcl_cli.probe.scores.auroc import auroc_by_pairs, auroc_by_rank

BINARY = ("normal", "tumour")


def simulated(rows: int, classes: int, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    truth = np.arange(rows) % classes
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += 1
    if ties:
        logits = logits.round(0)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth.astype(np.int64), probability


def predictions(rows=60, classes=2, patients=30, folds=3, seed=0, ties=False):
    truth, probability = simulated(rows, classes, seed, ties)
    patient = np.array([f"p{number % patients}" for number in range(rows)])
    fold = np.array([str(number % patients // classes % folds + 1) for number in range(rows)])
    names = tuple("abcdef"[:classes])
    return metrics.Predictions(truth, probability, fold, patient, names)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_equal_scikit_learn(classes):
    truth, probability = simulated(200, classes)
    names = tuple("abcde"[:classes])
    found = {metric: metrics.score(metric, truth, probability, names).value for metric in metrics.METRICS}
    predicted = probability.argmax(1)
    area = (
        roc_auc_score(truth, probability[:, 1])
        if classes == 2
        else roc_auc_score(truth, probability, multi_class="ovr")
    )
    assert found["auroc"] == pytest.approx(area, abs=1e-12)
    assert found["balanced_accuracy"] == balanced_accuracy_score(truth, predicted)
    assert found["macro_f1"] == f1_score(truth, predicted, average="macro")
    assert found["accuracy"] == (truth == predicted).mean()


def test_a_fold_of_one_class_gives_null_with_a_reason():
    truth, probability = np.ones(6, dtype=np.int64), np.full((6, 2), 0.5)
    for metric in ("auroc", "balanced_accuracy", "macro_f1"):
        found = metrics.score(metric, truth, probability, BINARY)
        assert found.value is None
        assert found.reason == "only class 'tumour' is present"
    assert metrics.score("accuracy", truth, probability, BINARY).value == 0.0


def test_multiclass_auroc_needs_every_class():
    truth, probability = simulated(30, 3)
    found = metrics.score("auroc", truth[truth < 2], probability[truth < 2], ("a", "b", "c"))
    assert found.value is None
    assert found.reason == "class 'c' is absent"


def test_the_headline_is_the_mean_over_folds_where_it_is_defined():
    truth = np.array([0, 1, 0, 1, 1, 1])
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]])
    fold = np.array(["1", "1", "2", "2", "3", "3"])
    rows = metrics.Predictions(truth, probability, fold, np.array(list("abcdef")), BINARY)
    found = uncertainty.headlines(rows)["auroc"]
    assert [score.value for score in found.folds.values()] == [1.0, 0.0, None]
    assert found.value == 0.5
    assert found.pooled.value == roc_auc_score(truth, probability[:, 1])
    assert found.low is None
    assert found.no_interval == "6 patients, fewer than 10"


@pytest.mark.parametrize("way", [auroc_by_rank, auroc_by_pairs])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), patients=st.integers(2, 9), ties=st.booleans())
def test_weighted_auroc_equals_scikit_learn_on_repeated_rows(way, seed, patients, ties):
    rng = np.random.default_rng(seed)
    rows = 4 * patients
    patient = np.arange(rows) % patients
    positive = rng.random(rows) < 0.5
    values = rng.normal(size=rows).round(0 if ties else 8)
    weights = rng.integers(0, 3, size=(6, patients)).astype(float)
    found = way(values, positive, patient, weights)
    for weight, area in zip(weights, found, strict=True):
        repeated = np.repeat(np.arange(rows), weight[patient].astype(int))
        truth = positive[repeated]
        if truth.all() or not truth.any():
            assert np.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(truth, values[repeated]), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_resamples_equal_scores_of_repeated_rows(classes):
    rows = predictions(rows=90, classes=classes, patients=30, folds=1, ties=True)
    fold = metrics.ResampledFold.of(rows, np.ones(90, dtype=bool))
    weights = np.random.default_rng(0).integers(0, 3, size=(20, 30)).astype(float)
    found = fold.scores(weights)
    for number, weight in enumerate(weights):
        repeated = np.repeat(np.arange(90), weight[fold.patient].astype(int))
        for metric in metrics.METRICS:
            expected = metrics.score(metric, rows.truth[repeated], rows.probability[repeated], rows.classes).value
            assert found[metric][number] == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_headline_and_are_repeatable():
    rows = predictions(rows=120, patients=60, folds=3)
    found = uncertainty.headlines(rows, resamples=400, seed=1)
    for headline in found.values():
        assert headline.low < headline.value < headline.high
    assert found == uncertainty.headlines(rows, resamples=400, seed=1)
    narrow = uncertainty.headlines(rows, resamples=400, confidence=0.5, seed=1)["auroc"]
    assert narrow.high - narrow.low < found["auroc"].high - found["auroc"].low


def test_the_order_of_the_rows_does_not_move_the_interval():
    rows = predictions(rows=120, patients=60, folds=3)
    order = np.random.default_rng(0).permutation(120)
    shuffled = metrics.Predictions(
        rows.truth[order], rows.probability[order], rows.fold[order], rows.patient[order], rows.classes
    )
    one, other = (uncertainty.headlines(r, resamples=100) for r in (rows, shuffled))
    for metric in metrics.METRICS:
        assert (one[metric].low, one[metric].high) == pytest.approx((other[metric].low, other[metric].high), abs=1e-12)


def test_more_slides_of_the_same_patients_do_not_narrow_the_interval():
    once = predictions(rows=60, patients=60, folds=2)
    again = metrics.Predictions(
        *(np.repeat(column, 10, axis=0) for column in (once.truth, once.probability, once.fold, once.patient)),
        once.classes,
    )
    one, other = (uncertainty.headlines(rows, resamples=300)["auroc"] for rows in (once, again))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)


def test_coverage_of_the_interval_is_about_what_it_says():
    truth_value, inside = 0.76025, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for seed in range(120):
        rng = np.random.default_rng(seed)
        truth = np.arange(80) % 2
        values = rng.normal(size=80) + truth
        probability = np.stack([-values, values], axis=1)
        names = np.array([f"p{number}" for number in range(80)])
        rows = metrics.Predictions(truth, probability, np.full(80, "1"), names, BINARY)
        found = uncertainty.headlines(rows, resamples=200)["auroc"]
        inside += found.low <= truth_value <= found.high
    assert 0.86 <= inside / 120 <= 0.99


def test_classes_are_those_of_the_data_and_not_those_that_rows_happen_to_hold():
    truth, probability = simulated(40, 4)
    names = ("a", "b", "c", "d")
    few = truth < 3
    for metric in ("auroc", "balanced_accuracy", "macro_f1"):
        found = metrics.score(metric, truth[few], probability[few], names)
        assert (found.value, found.reason) == (None, "class 'd' is absent")
    constant = np.tile([0.7, 0.1, 0.1, 0.1], (40, 1))
    assert metrics.score("balanced_accuracy", truth, constant, names).value == 0.25


def test_a_class_that_is_right_throughout_still_widens_a_balanced_accuracy():
    """8 of 8 and 52 of 80: without doubt of the 8 the interval would reach 0.77 to 0.87."""
    truth = np.repeat([1, 0], [8, 80])
    wrong = np.arange(88) >= 60
    probability = np.eye(2)[np.where(wrong, 1 - truth, truth)]
    names = np.array([f"p{number}" for number in range(88)])
    rows = metrics.Predictions(truth, probability, np.full(88, "1"), names, BINARY)
    ((variance, freedom),) = rows.unseen("balanced_accuracy")
    assert (variance, freedom) == pytest.approx((0.9 * 0.1 / 11 / 4, 7))
    found = uncertainty.headlines(rows, resamples=500)["balanced_accuracy"]
    assert found.value == pytest.approx((1 + 52 / 80) / 2)
    assert found.low < 0.72


@pytest.mark.parametrize(
    ("patients", "positives", "reason"),
    [
        (9, 5, "9 patients, fewer than 10"),
        (1, 1, "1 patient, fewer than 10"),
        (20, 4, "4 patients of class 'tumour', fewer than 5"),
    ],
)
def test_too_few_patients_give_no_interval(patients, positives, reason):
    truth = (np.arange(patients) < positives).astype(np.int64)
    probability = np.random.default_rng(0).dirichlet([1, 1], size=patients)
    names = np.array([f"p{number}" for number in range(patients)])
    rows = metrics.Predictions(truth, probability, np.full(patients, "1"), names, BINARY)
    found = uncertainty.headlines(rows)["auroc"]
    assert (found.low, found.high, found.no_interval) == (None, None, reason)


def test_a_lone_patient_of_a_class_in_a_fold_gives_no_interval_of_width_zero():
    truth = np.arange(12) % 2
    fold = np.array([str(number // 2) for number in range(12)])
    probability = np.random.default_rng(0).dirichlet([1, 1], size=12)
    rows = metrics.Predictions(truth, probability, fold, np.array([f"p{n}" for n in range(12)]), BINARY)
    found = uncertainty.headlines(rows)["auroc"]
    assert found.value is not None
    assert found.low is None
    assert found.no_interval == "fold 0 has one patient of class 'normal', whom resampling cannot vary"


def test_per_patient_values():
    rows = predictions(rows=12, patients=4, folds=1)
    found = metrics.per_patient(rows)
    assert [row["patient_id"] for row in found] == ["p0", "p1", "p2", "p3"]
    assert all(row["rows"] == 3 and row["auroc"] is None for row in found)
    mine = rows.patient == "p1"
    assert found[1]["accuracy"] == (rows.truth[mine] == rows.probability[mine].argmax(1)).mean()


def test_patches_by_the_hundred_thousand_are_quick():
    rows = predictions(rows=100_000, classes=3, patients=60, folds=3)
    start = time.process_time()
    uncertainty.headlines(rows, resamples=2000)
    assert time.process_time() - start < 20


def test_confusion_counts_truth_in_rows():
    counts = metrics.confusion(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]), 2)
    assert counts.tolist() == [[1, 1], [0, 1]]
