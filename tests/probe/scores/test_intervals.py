from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from sgcl_cli.probe.scores import intervals
from sgcl_cli.probe.scores.intervals import BELOW_ONE, CORRELATION, POSITIVE, SHARE
from sgcl_cli.probe.scores.resampling import Resampled


def resampled(value: float, width: float, patients: int = 8, resamples: int = 400) -> Resampled:
    """A headline whose two strata move it by about ``width``."""
    rng = np.random.default_rng(0)
    stratum = np.arange(patients) % 2
    without = value + width * rng.normal(size=patients) / patients
    return Resampled(value, value + width * rng.normal(size=resamples), without, stratum)


@settings(max_examples=60, deadline=None)
@given(value=st.floats(0.001, 0.999), width=st.floats(1e-4, 2.0))
def test_an_interval_of_a_share_holds_the_headline_and_stays_a_share(value, width):
    found = intervals.interval(resampled(value, width), 0.95)
    assert 0 <= found.low <= value <= found.high <= 1


@pytest.mark.parametrize("scale", [SHARE, CORRELATION, POSITIVE, BELOW_ONE])
@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_scales_are_inverted_and_their_slope_is_the_derivative(scale, value):
    assert scale.back(scale.to(value)) == pytest.approx(value)
    assert scale.slope(value) == pytest.approx((scale.to(value + 1e-6) - scale.to(value - 1e-6)) / 2e-6, rel=1e-5)


def test_the_interval_is_students_on_the_scale():
    found = resampled(0.8, 0.05)
    estimate = found.estimate()
    half = t.ppf(0.975, estimate.freedom) * estimate.error / 0.16
    centre = np.log(0.8 / 0.2) - estimate.bias / 0.16
    ends = 1 / (1 + np.exp(-np.array([centre - half, centre + half])))
    got = intervals.interval(found, 0.95)
    assert (got.low, got.high) == pytest.approx(tuple(ends))
    assert intervals.interval(found, 0.5).high < got.high


def test_a_perfect_score_reaches_down_to_what_could_have_been_perfect_by_chance():
    perfect = Resampled(1.0, np.ones(50), np.ones(12), np.zeros(12, dtype=np.int64))
    found = intervals.interval(perfect, 0.95, witnesses=6)
    assert found.high == 1.0
    assert found.low**6 == pytest.approx(0.025)
    worst = Resampled(0.0, np.zeros(50), np.zeros(12), np.zeros(12, dtype=np.int64))
    assert intervals.interval(worst, 0.95, witnesses=6).high == pytest.approx(1 - found.low)
    assert "same value" in intervals.interval(perfect, 0.95).reason


def test_a_value_that_no_resample_moves_has_no_interval():
    still = Resampled(0.25, np.full(50, 0.25), np.full(12, 0.25), np.zeros(12, dtype=np.int64))
    assert intervals.interval(still, 0.95).reason == "every resample gives the same value"
    assert intervals.interval(still, 0.95, unseen=[(0.01, 5)]).low < 0.25


def test_a_metric_that_hangs_on_one_patient_has_no_interval():
    found = resampled(0.7, 0.05)
    without = found.without.copy()
    without[3] = np.nan
    lone = Resampled(found.value, found.drawn, without, found.stratum)
    assert intervals.interval(lone, 0.95).reason == "it is not defined without one of the patients"
    drawn = found.drawn.copy()
    drawn[:80] = np.nan
    often = Resampled(found.value, drawn, found.without, found.stratum)
    assert intervals.interval(often, 0.95, most_undefined=0.1).reason == "it is not defined in 20 % of the resamples"
    drawn[20:80] = 0.7
    assert intervals.interval(often, 0.95, most_undefined=0.1).low is not None


@pytest.mark.parametrize("value", [0.0, 0.01, 0.06, 0.11, 0.3, 2.0])
def test_p_is_below_a_twentieth_where_the_interval_is_away_from_nothing(value):
    found = intervals.difference(resampled(value, 0.05), 0.95)
    assert (found.p < 0.05) == (found.interval.low > 0)
    assert found.p >= 1 / 401


def test_no_p_is_smaller_than_the_resamples_can_tell():
    assert intervals.difference(resampled(5.0, 0.01), 0.95).p == pytest.approx(1 / 401)


def test_equal_models_have_p_one_and_a_constant_difference_none():
    def still(value: float) -> intervals.Tested:
        return intervals.difference(
            Resampled(value, np.full(9, value), np.full(6, value), np.arange(6) % 2), confidence=0.95
        )

    assert (still(0.0).p, still(0.0).interval.low) == (1.0, 0.0)
    assert still(0.2).p is None
    assert still(0.2).interval.reason == "every resample gives the same difference"


def test_resamples_that_lack_a_class_leave_the_interval_to_those_that_leave_one_patient_out():
    """A class that two of five patients of a fold hold beside others is in most resamples, not in all."""
    rng = np.random.default_rng(0)
    without, stratum = 0.7 + 0.01 * rng.normal(size=10), np.zeros(10, dtype=np.int64)
    drawn = 0.7 + 0.03 * rng.normal(size=400)
    drawn[:150] = np.nan
    some, none = (Resampled(0.7, one, without, stratum) for one in (drawn, np.full(400, np.nan)))
    alone = Resampled(0.7, np.full(400, 0.7), without, stratum)
    assert intervals.interval(none, 0.95) == intervals.interval(alone, 0.95)
    found, least = intervals.interval(some, 0.95), intervals.interval(alone, 0.95)
    assert found.low <= least.low < 0.7 < least.high <= found.high
    assert intervals.difference(some - alone, 0.95).p is not None
    lacking = Resampled(0.7, drawn, np.where(np.arange(10) == 3, np.nan, without), stratum)
    assert intervals.interval(lacking, 0.95).reason == "it is not defined without one of the patients"
