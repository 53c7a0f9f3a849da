"""The path of C: against the closed form of a ridge regression."""

from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.models.penalised import LeadingAxes, Solution, walk


class Squares:
    """Half the mean squared error of scores (n, k)."""

    def __init__(self, truth: np.ndarray) -> None:
        self.truth, self.outputs, self.weight = truth, truth.shape[1], float(len(truth))

    def value(self, scores: np.ndarray) -> tuple[float, np.ndarray]:
        left = scores - self.truth
        return float((left**2).sum()) / 2 / self.weight, left / self.weight

    def curvature(self, scores: np.ndarray) -> np.ndarray:
        return np.ones(self.outputs)


def closed_form(features: np.ndarray, truth: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """The minimum of C / 2 |X w + b - y|^2 + |w|^2 / 2."""
    mean, middle = features.mean(0), truth.mean(0)
    centred = features - mean
    weights = np.linalg.solve(centred.T @ centred + np.eye(len(mean)) / c, centred.T @ (truth - middle))
    return weights, middle - mean @ weights


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 5)) * [3, 1, 1, 0.3, 0.1] + 0.5
    return features, features @ draw.normal(size=(5, 2)) + draw.normal(size=(60, 2))


def test_each_c_has_the_closed_form(rows) -> None:
    features, truth = rows
    path = (0.001, 0.1, 10.0)
    found = list(walk(features, Squares(truth), path, tolerance=1e-9))
    assert [one.c for one in found] == list(path)
    for one in found:
        weights, intercept = closed_form(features, truth, one.c)
        np.testing.assert_allclose(one.coefficients, weights, atol=1e-6)
        np.testing.assert_allclose(one.intercept, intercept, atol=1e-6)


def test_converged_compares_the_slope_with_the_tolerance(rows) -> None:
    features, truth = rows
    (met,) = walk(features, Squares(truth), [1.0])
    assert met.converged and met.slope <= 1e-5
    (missed,) = walk(features, Squares(truth), [1.0], tolerance=0.0)
    assert not missed.converged and missed.slope > 0


def test_a_solution_scores_rows() -> None:
    one = Solution(1.0, np.array([[2.0], [-1.0]]), np.array([0.5]), 0.0, 1, True)
    assert one(np.array([[1.0, 1.0], [0.0, 3.0]])).tolist() == [[1.5], [-2.5]]


def test_leading_axes_are_orthonormal_and_keep_the_spread(rows) -> None:
    features, _ = rows
    axes = LeadingAxes.of(features)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(5), atol=1e-12)
    expected = np.linalg.svd(features, compute_uv=False) ** 2 / len(features)
    np.testing.assert_allclose(np.sort(axes.spread)[::-1], expected, rtol=1e-9)
    assert axes.rest == pytest.approx(0.0, abs=1e-9)


def test_the_rest_is_the_mean_spread_of_the_other_axes() -> None:
    features = np.random.default_rng(1).normal(size=(200, 150))
    axes = LeadingAxes.of(features)
    assert axes.directions.shape == (150, 128)
    total = (features**2).sum() / len(features)
    assert axes.rest == pytest.approx((total - axes.spread.sum()) / (150 - 128))
