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
def test_ece_equals_loops(classes):
    some = rows(classes=classes)
    total = 0.0
    stated = some.probability[:, 1] if classes == 2 else some.probability.max(1)
    right = some.truth == (1 if classes == 2 else some.probability.argmax(1))
    for low in range(10):
        inside = [i for i in range(120) if low / 10 <= stated[i] < (low + 1) / 10]
        if inside:
            total += abs(sum(stated[i] for i in inside) - sum(right[i] for i in inside))
    assert some.score("ece", np.ones(120, bool)).value == pytest.approx(total / 120)


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
        assert found["ece"][number] == pytest.approx(
            calibration.expected_error(some.truth[again], some.probability[again])
        )
        assert found["brier"][number] == pytest.approx(
            calibration.squared_errors(some.truth[again], some.probability[again]).mean()
        )


def test_the_headline_has_an_interval():
    found = uncertainty.headlines(rows(), resamples=100)["brier"]
    assert found.low < found.value < found.high
