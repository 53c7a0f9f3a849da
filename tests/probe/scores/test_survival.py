from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.scores import survival, uncertainty

# Freireich et al. 1963, remission under 6-mercaptopurine, weeks; censored 0. Placebo: all relapsed.
TREATED = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], dtype=float)
TREATED_EVENT = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], dtype=float)


def simulated(rows: int, seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=rows).round(0 if ties else 8)
    time = rng.exponential(np.exp(-risk))
    time = np.ceil(time * 4) if ties else time
    return time, (rng.random(rows) < 0.6).astype(np.int64), risk


def c_by_loops(time, event, risk):
    """Harrell's C pair by pair."""
    concordant = comparable = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                comparable += 1
                concordant += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
    return concordant / comparable


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_c_index_equals_loops(seed, ties, monkeypatch):
    time, event, risk = simulated(60, seed, ties)
    expected = c_by_loops(time, event, risk)
    assert survival.c_index(time, event, risk).value == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(survival, "_BLOCK", 7)
    assert survival.c_index(time, event, risk).value == pytest.approx(expected, abs=1e-12)


def test_c_index_ends_and_reasons():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0])
    assert survival.c_index(time, event, -time).value == 1
    assert survival.c_index(time, event, time).value == 0
    assert survival.c_index(time, event, np.zeros(3)).value == 0.5
    none = survival.c_index(time, np.zeros(3, dtype=int), time)
    assert (none.value, none.reason) == (None, "no two rows whose order of events is known")


def test_kaplan_meier_of_a_published_trial():
    """Kaplan-Meier with Greenwood's errors as printed in survival textbooks (Kleinbaum and Klein, chapter 2)."""
    curve = survival.kaplan_meier(TREATED, TREATED_EVENT)
    assert curve.time.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert curve.events.tolist() == [3, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(curve.survival, [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], atol=5e-5)
    np.testing.assert_allclose(curve.error, [0.0764, 0.0869, 0.0963, 0.1068, 0.1141, 0.1282, 0.1346], atol=5e-5)


def test_greenwood_equals_loops_and_the_interval_stays_within_0_and_1():
    time, event, _ = simulated(40, 0, True)
    curve = survival.kaplan_meier(time, event)
    s, v = 1.0, 0.0
    for number, t in enumerate(sorted({t for t, e in zip(time, event, strict=True) if e})):
        n = sum(x >= t for x in time)
        d = sum(x == t and e for x, e in zip(time, event, strict=True))
        s *= 1 - d / n
        if d < n:
            v += d / (n * (n - d))
            half = 1.959963984540054 * v**0.5 / -np.log(s)
            assert curve.error[number] == pytest.approx(s * v**0.5)
            assert curve.low[number] == pytest.approx(s ** np.exp(half))
            assert curve.high[number] == pytest.approx(s ** np.exp(-half))
        assert curve.survival[number] == pytest.approx(s)
    known = np.isfinite(curve.low)
    assert (curve.low[known] < curve.survival[known]).all()
    assert (curve.survival[known] < curve.high[known]).all()
    assert (curve.low[known] >= 0).all() and (curve.high[known] <= 1).all()


def test_a_curve_that_reaches_zero_and_one_without_events():
    curve = survival.kaplan_meier(PLACEBO, np.ones(21, dtype=int))
    assert curve.survival[-1] == 0
    assert np.isnan(curve.low[-1]) and np.isnan(curve.high[-1])
    assert len(survival.kaplan_meier(PLACEBO, np.zeros(21, dtype=int)).time) == 0


def test_log_rank_of_a_published_trial():
    """chi^2 = 16.79 on one degree of freedom, the textbook value of this trial."""
    time = np.concatenate([TREATED, PLACEBO])
    event = np.concatenate([TREATED_EVENT, np.ones(21, dtype=int)])
    p = survival.log_rank(time, event, np.arange(42) < 21)
    assert p == pytest.approx(survival.chi2.sf(16.79, 1), rel=5e-3)
    assert survival.log_rank(time, np.zeros(42, dtype=int), np.arange(42) < 21) is None


def risks(rows=80, patients=40, folds=2, seed=0):
    time, event, risk = simulated(rows, seed, True)
    patient = np.array([f"p{number % patients}" for number in range(rows)])
    fold = np.array([str(number % patients % folds + 1) for number in range(rows)])
    return survival.Risks(time, event, risk, fold, patient)


def test_resamples_equal_scores_of_repeated_rows():
    rows = risks(folds=1)
    weights = np.random.default_rng(0).integers(0, 3, size=(15, 40)).astype(float)
    found = rows.resampler(np.ones(80, dtype=bool)).scores(weights)["c_index"]
    _, patient = np.unique(rows.patient, return_inverse=True)
    for weight, value in zip(weights, found, strict=True):
        again = np.repeat(np.arange(80), weight[patient].astype(int))
        assert value == pytest.approx(c_by_loops(rows.time[again], rows.event[again], rows.risk[again]), abs=1e-12)


def test_the_headline_has_an_interval_and_too_few_events_have_none():
    rows = risks()
    found = uncertainty.headlines(rows, resamples=200)["c_index"]
    assert found.low < found.value < found.high
    rare = survival.Risks(rows.time, (np.arange(80) < 3).astype(int), rows.risk, rows.fold, rows.patient)
    assert uncertainty.headlines(rare)["c_index"].no_interval == "3 patients of outcome 'event', fewer than 5"


def test_risks_are_divided_at_the_median_of_their_own_fold():
    risk, fold = np.array([1.0, 2.0, 3.0, 11.0, 12.0]), np.array(["1", "1", "1", "2", "2"])
    assert survival.above_median(risk, fold).tolist() == [False, False, True, False, True]
    assert not survival.above_median(np.ones(3), np.array(["1"] * 3)).any()
