from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from sgcl_cli.probe.scores import calibration, uncertainty


def rows(count=120, classes=2, patients=60, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(classes), size=count)
    truth = np.array([rng.choice(classes, p=p) for p in probability])
    patient = np.array([f"p{number % patients}" for number in range(count)])
    fold = np.array([str(number % patients % 2 + 1) for number in range(count)])
    return calibration.Calibrated(truth, probability, fold, patient, tuple("abc"[:classes]))


def test_brier_and_bins_equal_scikit_learn():
    two = rows()
    everything = np.ones(120, bool)
    expected = brier_score_loss(two.truth, two.probability[:, 1])
    assert two.score("brier", everything).value == pytest.approx(expected)
    bins = calibration.reliability(two.truth, two.probability)
    observed, stated = calibration_curve(two.truth, two.probability[:, 1], n_bins=10)
    np.testing.assert_allclose(bins.observed[bins.count > 0], observed)
    np.testing.assert_allclose(bins.stated[bins.count > 0], stated)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_calibration_error_is_that_of_pairs_of_rows_of_different_patients(classes):
    some = rows(classes=classes)
    stated = some.probability[:, 1] if classes == 2 else some.probability.max(1)
    gap = stated - (some.truth == (1 if classes == 2 else some.probability.argmax(1)))
    total, members = 0.0, 0
    for low in range(10):
        inside = [i for i in range(120) if low / 10 <= stated[i] < (low + 1) / 10]
        pairs = [gap[i] * gap[j] for i in inside for j in inside if some.patient[i] != some.patient[j]]
        if pairs:
            total += len(inside) * np.mean(pairs)
            members += len(inside)
    found = calibration.calibration_error(some.truth, some.probability, some.patient)
    assert found.value == pytest.approx(np.sqrt(max(0, total / members)))


@pytest.mark.parametrize(("sharpness", "expected", "most"), [(1.0, 0.0, 0.05), (2.5, 0.133, 0.16)])
def test_chance_adds_nothing_to_the_calibration_error(sharpness, expected, most):
    """Perfect probabilities, and overconfident ones; the plain ECE of the former is 0.10 at 100 rows, 0.22 at 20."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        score = 1.5 * rng.normal(size=100)
        truth = (rng.random(100) < 1 / (1 + np.exp(-score))).astype(np.int64)
        positive = 1 / (1 + np.exp(-sharpness * score))
        names = np.array([f"p{number}" for number in range(100)])
        found.append(calibration.calibration_error(truth, np.stack([1 - positive, positive], 1), names).value)
    assert expected - 0.03 <= np.mean(found) <= most
    few = calibration.calibration_error(truth[:99], np.full((99, 2), 0.5), names[:99])
    assert (few.value, few.reason) == (None, "99 rows, fewer than 100")


def test_three_classes_add_their_squares_and_certainty_is_in_the_last_bin():
    errors = calibration.squared_errors(np.array([2]), np.array([[0.5, 0.5, 0.0]]))
    assert errors.tolist() == [1.5]
    bins = calibration.reliability(np.array([1, 0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert bins.count[[0, 9]].tolist() == [1, 1]
    assert np.isnan(bins.stated[5])


@pytest.mark.parametrize("classes", [2, 3])
def test_resamples_equal_scores_of_repeated_rows(classes):
    some = rows(classes=classes)
    weights = np.random.default_rng(0).integers(0, 3, size=(10, 60)).astype(float)
    everything = np.ones(120, bool)
    found = some.resampler(everything).scores(weights)
    _, patient = np.unique(some.patient, return_inverse=True)
    for number, weight in enumerate(weights):
        again = np.repeat(np.arange(120), weight[patient].astype(int))
        assert found["brier"][number] == pytest.approx(
            calibration.squared_errors(some.truth[again], some.probability[again]).mean()
        )


def test_the_headline_has_an_interval():
    found = uncertainty.headlines(rows(), resamples=100)["brier"]
    assert found.low < found.value < found.high
