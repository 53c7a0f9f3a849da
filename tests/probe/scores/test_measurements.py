from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from sgcl_cli.probe.scores import measurements, uncertainty


def values(rows=90, patients=30, folds=3, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows) * 5 + 20
    value = truth + rng.normal(size=rows) * 3
    if ties:
        truth, value = truth.round(), (value / 4).round() * 4
    patient = np.array([f"p{number % patients}" for number in range(rows)])
    fold = np.array([str(number % patients % folds + 1) for number in range(rows)])
    return measurements.Values(truth, value, fold, patient)


def test_scores_equal_the_libraries():
    rows = values()
    everything = np.ones(90, dtype=bool)
    assert rows.score("r2", everything).value == r2_score(rows.truth, rows.value)
    assert rows.score("mae", everything).value == mean_absolute_error(rows.truth, rows.value)
    assert rows.score("spearman", everything).value == spearmanr(rows.truth, rows.value).statistic


@pytest.mark.parametrize("ties", [False, True])
def test_resamples_equal_scores_of_repeated_rows(ties, monkeypatch):
    monkeypatch.setattr(measurements, "_BLOCK", 6)
    rows = values(folds=1, ties=ties)
    weights = np.random.default_rng(0).integers(0, 3, size=(20, 30)).astype(float)
    found = rows.resampler(np.ones(90, dtype=bool)).scores(weights)
    _, patient = np.unique(rows.patient, return_inverse=True)
    for number, weight in enumerate(weights):
        again = np.repeat(np.arange(90), weight[patient].astype(int))
        for metric in measurements.METRICS:
            expected = measurements.score(metric, rows.truth[again], rows.value[again]).value
            assert found[metric][number] == pytest.approx(expected, abs=1e-9)


def test_undefined_scores_say_why():
    same, other = np.full(4, 3.0), np.arange(4.0)
    assert measurements.score("r2", same, other).reason == "all measured values are equal"
    assert measurements.score("spearman", other, same).reason == "all predicted values are equal"
    assert measurements.score("mae", same, other).value == 1.5 + 0.0
    assert measurements.score("r2", other[:0], other[:0]).reason == "no rows"


def test_the_headline_has_an_interval():
    found = uncertainty.headlines(values(), resamples=200)
    for metric in ("mae", "spearman"):
        assert found[metric].low < found[metric].value < found[metric].high
    assert found["r2"].no_interval == "fold 1 has 10 patients, fewer than 20"
    assert uncertainty.headlines(values(folds=1), resamples=200)["r2"].low is not None
    lone = values(patients=30, folds=30)
    assert uncertainty.headlines(lone)["mae"].no_interval == "fold 1 has 1 patient, fewer than 2"
