from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from sgcl_cli.probe.scores import thresholds, uncertainty


def simulated(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(rows) % 2 == 1
    return truth, (rng.normal(size=rows) + truth).round(1)


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_all_thresholds(seed):
    truth, score = simulated(seed=seed)

    def worth(t):
        return (score[truth] >= t).mean() + (score[~truth] < t).mean()

    best = max(worth(t) for t in score)
    found = thresholds.youden(truth, score)
    assert worth(found) == pytest.approx(best)
    assert found == max(t for t in score if worth(t) == pytest.approx(best))


@pytest.mark.parametrize("at_least", [0.5, 0.95, 1.0])
def test_the_sensitive_threshold_is_the_highest_that_suffices(at_least):
    truth, score = simulated()
    found = thresholds.sensitive(truth, score, at_least)
    assert (score[truth] >= found).mean() >= at_least
    assert (score[truth] > found).mean() < at_least


def test_one_class_gives_no_threshold():
    assert thresholds.youden(np.ones(3, bool), np.arange(3.0)) is None
    assert thresholds.sensitive(np.zeros(3, bool), np.arange(3.0)) is None


def decisions(rows=80, patients=40, seed=0):
    truth, score = simulated(rows, seed)
    patient = np.array([f"p{number % patients}" for number in range(rows)])
    fold = np.array([str(number % patients // 2 % 2 + 1) for number in range(rows)])
    return thresholds.Decisions.at({"1": 0.4, "2": 0.6}, truth, score, fold, patient), score


def test_each_fold_has_its_own_threshold_and_shares_equal_scikit_learns():
    rows, score = decisions()
    assert (rows.called == (score >= np.where(rows.fold == "1", 0.4, 0.6))).all()
    some = rows.fold == "2"
    truth, called = rows.truth[some], rows.called[some]
    expected = {
        "sensitivity": recall_score(truth, called),
        "specificity": recall_score(~truth, ~called),
        "ppv": precision_score(truth, called),
        "npv": precision_score(~truth, ~called),
    }
    assert {metric: rows.score(metric, some).value for metric in rows.metrics} == expected


def test_resamples_equal_scores_of_repeated_rows():
    rows, _ = decisions()
    some = rows.fold == "1"
    weights = np.random.default_rng(0).integers(0, 3, size=(20, 20)).astype(float)
    found = rows.resampler(some).scores(weights)
    _, patient = np.unique(rows.patient[some], return_inverse=True)
    for number, weight in enumerate(weights):
        again = np.flatnonzero(some)[np.repeat(np.arange(40), weight[patient].astype(int))]
        part = thresholds.Decisions(*(column[again] for column in (rows.truth, rows.called, rows.fold, rows.patient)))
        for metric in rows.metrics:
            expected = part.score(metric, np.ones(len(again), bool)).value
            assert found[metric][number] == pytest.approx(expected, nan_ok=expected is None)


def test_intervals_and_reasons():
    rows, _ = decisions()
    found = uncertainty.headlines(rows, resamples=200)["sensitivity"]
    assert found.low < found.value < found.high
    never = thresholds.Decisions(rows.truth, np.zeros(80, bool), rows.fold, rows.patient)
    assert uncertainty.headlines(never, resamples=50)["ppv"].reason == "no row is called positive"


def test_a_fold_without_threshold_is_left_out():
    truth, score = simulated(20)
    fold = np.array(["1"] * 10 + ["2"] * 10)
    rows = thresholds.Decisions.at({"1": None, "2": 0.0}, truth, score, fold, fold)
    assert set(rows.fold) == {"2"}
