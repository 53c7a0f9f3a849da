from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.scores import metrics, reported, resampling, uncertainty
from sgcl_cli.probe.scores.reported import Score
from sgcl_cli.probe.scores.uncertainty import Headline


def headline(*folds: float | None) -> Headline:
    scores = {str(number): Score(value) for number, value in enumerate(folds)}
    value, reason = reported.mean_of_scores(scores)
    return Headline("auroc", value, reason, None, None, "", scores, Score(None))


def test_folds_and_seeds_spread_apart():
    averaged = headline(0.7, 0.8, 0.9)
    seeds = [headline(0.7, 0.8, 0.9), headline(0.72, 0.82, 0.92)]
    found = uncertainty.spread(averaged, seeds)
    assert found.folds == pytest.approx(0.1)
    assert found.seeds == pytest.approx(0.02 / np.sqrt(2))


def test_a_spread_of_one_is_none():
    assert uncertainty.spread(headline(0.7, None), [headline(0.7)]) == uncertainty.Spread(None, None)


def test_the_mean_leaves_undefined_folds_out_and_keeps_the_reason():
    assert reported.mean_of_scores({"1": Score(0.5), "2": Score(None, "why")}) == (0.5, "")
    assert reported.mean_of_scores({"1": Score(None, "why")}) == (None, "why")


def predictions(copies: int) -> metrics.Predictions:
    """40 patients of one slide, reported by each of so many folds alike."""
    rng = np.random.default_rng(0)
    truth, score = np.arange(40) % 2, rng.uniform(size=40) + 0.3 * (np.arange(40) % 2)
    patient = np.array([f"p{number:02d}" for number in range(40)])
    fold = np.repeat([str(number + 1) for number in range(copies)], 40)
    probability = np.stack([1 - score, score], 1)
    return metrics.Predictions(
        np.tile(truth, copies), np.tile(probability, (copies, 1)), fold, np.tile(patient, copies), ("a", "b")
    )


def test_folds_that_share_patients_make_no_number_more_certain():
    """Repeating one division says nothing new: the interval stays as it is, while folds of other patients narrow it."""
    one, four = (uncertainty.headlines(predictions(copies), resamples=500)["auroc"] for copies in (1, 4))
    assert (one.value, one.low, one.high) == pytest.approx((four.value, four.low, four.high))
    apart = predictions(4)
    patient = np.char.add(apart.patient, apart.fold)
    others = metrics.Predictions(apart.truth, apart.probability, apart.fold, patient, ("a", "b"))
    narrow = uncertainty.headlines(others, resamples=500)["auroc"]
    assert narrow.high - narrow.low < 0.7 * (one.high - one.low)


def test_a_patient_is_drawn_as_often_in_every_fold_that_reports_it():
    """As loops: accuracy of two folds that share half of their patients, one draw of all patients for both."""
    both = predictions(2)
    kept = np.r_[0:30, 50:80]  # patients 0 to 29 in fold 1, 10 to 39 in fold 2
    given = metrics.Predictions(
        both.truth[kept], both.probability[kept], both.fold[kept], both.patient[kept], ("a", "b")
    )
    found = resampling.resample(given, 20, seed=3)["accuracy"].drawn
    drawn = resampling.draw(np.arange(40) % 2, 20, np.random.default_rng([3, 0]))
    right = (both.probability.argmax(1) == both.truth)[:40].astype(float)
    for number in range(20):
        folds = [np.average(right[part], weights=drawn[number, part]) for part in (slice(0, 30), slice(10, 40))]
        assert found[number] == pytest.approx(np.mean(folds))
