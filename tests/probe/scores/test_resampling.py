from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.scores import resampling
from sgcl_cli.probe.scores.metrics import Predictions
from sgcl_cli.probe.scores.reported import why_no_interval


def right_or_wrong(sizes: dict[tuple[int, int], int], seed: int = 0) -> Predictions:
    """One row a patient, so many of each (fold, class), each right or wrong by chance."""
    rng = np.random.default_rng(seed)
    fold, truth = np.array([key for key, many in sizes.items() for _ in range(many)]).T
    correct = rng.random(len(truth)) < 0.6
    probability = np.eye(2)[np.where(correct, truth, 1 - truth)]
    names = np.array([f"p{number:03d}" for number in range(len(truth))])
    return Predictions(truth, probability, fold.astype(str), names, ("a", "b"))


SIZES = {(1, 0): 2, (1, 1): 5, (2, 0): 3, (2, 1): 2, (3, 0): 9, (3, 1): 4}


def closed_form(rows: Predictions) -> float:
    """The variance of the mean over folds of accuracy: sum of (n_h / n_k)^2 s_h^2 / n_h over strata h of folds k, by K^2."""
    total = 0.0
    for fold in np.unique(rows.fold):
        mine = rows.fold == fold
        for label in (0, 1):
            members = mine & (rows.truth == label)
            right = (rows.probability.argmax(1) == rows.truth)[members]
            total += (members.sum() / mine.sum()) ** 2 * right.var(ddof=1) / members.sum()
    return total / len(np.unique(rows.fold)) ** 2


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_of_a_mean_is_the_closed_form(seed):
    rows = right_or_wrong(SIZES, seed)
    found = resampling.resample(rows, 40_000, seed=1)["accuracy"]
    expected = closed_form(rows)
    assert expected > 0
    assert np.var(found.drawn, ddof=1) == pytest.approx(expected, rel=0.03)
    without = resampling.Resampled(found.value, np.full(2, found.value), found.without, found.stratum)
    assert without.estimate().error ** 2 == pytest.approx(expected, rel=1e-10)
    assert without.estimate().bias == pytest.approx(0, abs=1e-12)


def test_two_patients_of_a_stratum_have_the_whole_variance_and_not_half_of_it():
    weights = resampling.draw(np.zeros(2, dtype=np.int64), 4_000, np.random.default_rng(0))
    means = weights @ np.array([0.0, 1.0]) / 2
    assert set(np.unique(weights)) == {0.0, 2.0}
    assert means.var() == pytest.approx(0.25, rel=0.01), "s^2 / n = 0.5 / 2"


def test_n_minus_one_patients_are_drawn_within_each_stratum_and_weigh_n_together():
    stratum = np.array([0, 0, 0, 1, 1, 4, 4, 4, 4, 4])
    weights = resampling.draw(stratum, 500, np.random.default_rng(0))
    for value, n in ((0, 3), (1, 2), (4, 5)):
        drawn = weights[:, stratum == value] * (n - 1) / n
        np.testing.assert_allclose(drawn, drawn.round(), atol=1e-12)
        np.testing.assert_allclose(drawn.sum(1), n - 1)
    assert weights.mean(0) == pytest.approx(np.ones(10), abs=0.15)


def test_who_is_left_out_is_made_up_for_by_the_others_of_its_stratum():
    weights = resampling.leave_one_out(np.array([7, 7, 7, 2, 2]))
    expected = np.array(
        [[0, 1.5, 1.5, 1, 1], [1.5, 0, 1.5, 1, 1], [1.5, 1.5, 0, 1, 1], [1, 1, 1, 0, 2], [1, 1, 1, 2, 0]]
    )
    np.testing.assert_allclose(weights, expected)


def test_the_bias_of_an_auroc_is_that_of_pairs_within_patients():
    """Patients with as many rows of both classes: value less bias is the AUROC of pairs between patients."""
    rng = np.random.default_rng(3)
    patient, truth = np.repeat(np.arange(7), 6), np.tile([0, 1], 21)
    value = 2 * rng.normal(size=7)[patient] + truth + rng.normal(size=42)
    names = np.array([f"p{number}" for number in patient])
    rows = Predictions(truth, np.stack([-value, value], 1), np.full(42, "1"), names, ("a", "b"))
    estimate = resampling.resample(rows, 10, seed=0)["auroc"].estimate()
    up, down = truth == 1, truth == 0
    wins = value[up][:, None] > value[down]
    between = patient[up][:, None] != patient[down]
    assert estimate.value == pytest.approx(wins.mean())
    assert estimate.bias > 0.02
    assert estimate.value - estimate.bias == pytest.approx(wins[between].mean(), abs=1e-12)


def test_degrees_of_freedom_are_satterthwaites():
    without = np.array([0.0, 0.2, 0.0, 0.1, 0.2])
    found = resampling.Resampled(0.1, np.full(3, 0.1), without, np.array([0, 0, 1, 1, 1]))
    first, second = 1 / 2 * 0.02, 2 / 3 * 0.02
    estimate = found.estimate()
    assert estimate.error**2 == pytest.approx(first + second)
    assert estimate.freedom == pytest.approx((first + second) ** 2 / (first**2 / 1 + second**2 / 2))
    more = found.estimate([(0.01, 7)])
    assert more.error**2 == pytest.approx(first + second + 0.01)
    assert more.freedom == pytest.approx((first + second + 0.01) ** 2 / (first**2 + second**2 / 2 + 0.01**2 / 7))


def test_the_difference_of_a_model_and_itself_has_no_error():
    found = resampling.resample(right_or_wrong(SIZES), 50, seed=0)["accuracy"]
    estimate = (found - found).estimate()
    assert (estimate.value, estimate.error) == (0, 0)


def test_a_fold_where_a_metric_is_undefined_is_left_out_of_it():
    rows = right_or_wrong({**SIZES, (4, 0): 6})
    found = resampling.resample(rows, 20, seed=0)
    assert len(found["balanced_accuracy"].without) == sum(SIZES.values())
    assert len(found["accuracy"].without) == sum(SIZES.values()) + 6
    assert np.isfinite(found["balanced_accuracy"].drawn).all()


def test_a_constant_predictor_of_four_classes_reaches_a_quarter_whoever_is_drawn():
    truth = np.arange(48) % 4
    probability = np.tile([0.1, 0.6, 0.2, 0.1], (48, 1))
    names = np.array([f"p{number}" for number in range(48)])
    rows = Predictions(truth, probability, (np.arange(48) // 4 % 3).astype(str), names, ("a", "b", "c", "d"))
    found = resampling.resample(rows, 300, seed=0)
    np.testing.assert_allclose(found["balanced_accuracy"].drawn, 0.25, atol=1e-12)
    np.testing.assert_allclose(found["macro_f1"].drawn, 0.1, atol=1e-12)
    assert rows.unseen("balanced_accuracy") == ()


def test_patients_of_several_classes_need_four_in_a_fold_for_an_auroc():
    def rows(per_fold: int) -> Predictions:
        patient = np.repeat(np.arange(4 * per_fold), 4)
        truth = np.arange(len(patient)) % 2
        value = np.random.default_rng(0).random(len(patient))
        names = np.array([f"p{number}" for number in patient])
        return Predictions(truth, np.stack([1 - value, value], 1), (patient % 4).astype(str), names, ("a", "b"))

    why = why_no_interval(rows(3), "auroc", 100)
    assert why == "fold 0 has 3 patients, fewer than 4, and patients hold several classes"
    assert why_no_interval(rows(3), "balanced_accuracy", 100) == ""
    assert why_no_interval(rows(4), "auroc", 100) == ""


def test_loners_join_the_largest_stratum():
    counts = np.array([[3, 0], [2, 0], [0, 1], [1, 1], [4, 1]])
    assert resampling.strata(counts).tolist() == [0, 0, 0, 2, 2]


@pytest.mark.slow
def test_three_patients_of_a_class_in_a_fold_are_covered():
    """14 patients of 30 rows in 3 folds: the percentiles of n of n draws held the truth in 83 %."""
    from benchmarks import coverage

    found = coverage.tallied(coverage.DESIGNS[0], 150, 200)["auroc"]
    assert found.held / found.given > 0.93
    assert found.before / found.sets < 0.90
    assert found.false / found.pairs < 0.05
