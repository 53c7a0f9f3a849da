from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sgcl_cli.probe.models import linear, penalised
from sgcl_cli.probe.models.penalised import walk


def blobs(classes: int, seed: int = 0, rows: int = 120, dim: int = 8):
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    features = rng.normal(size=(rows, dim)) * 3 + 5
    features[np.arange(rows), label] += 4
    return features, label.astype(np.int64)


def cold(features, label, rows, c):
    scaler = StandardScaler().fit(features[rows])
    model = LogisticRegression(C=c, max_iter=10_000, tol=1e-10)
    return scaler, model.fit(scaler.transform(features[rows]), label[rows])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dim", [8, 150])
def test_equals_a_cold_fit_of_scikit_learn(classes, dim):
    features, label = blobs(classes, dim=dim)
    train, validation, test = np.arange(60), np.arange(60, 90), np.arange(90, 120)
    probe = linear.fit(features, label, train, validation, classes=classes)

    losses, chosen = {}, {}
    for c in linear.C_PATH:
        scaler, model = cold(features, label, train, c)
        chosen[c] = model.predict_proba(scaler.transform(features[validation]))
        losses[c] = log_loss(label[validation], chosen[c])
    assert probe.c == min(losses, key=losses.get)
    assert [probe.path[c] for c in linear.C_PATH] == pytest.approx([losses[c] for c in linear.C_PATH], abs=2e-3)
    np.testing.assert_allclose(probe.validation, chosen[probe.c], atol=2e-3)

    scaler, model = cold(features, label, np.arange(90), probe.c)
    expected = model.predict_proba(scaler.transform(features[test]))
    np.testing.assert_allclose(probe(features[test]), expected, atol=1e-5)
    assert probe.converged


@pytest.mark.parametrize("c", linear.C_PATH)
@pytest.mark.parametrize("classes", [2, 4])
def test_coefficients_equal_scikit_learns_at_every_c(c, classes):
    features, label = blobs(classes, rows=200, dim=20, seed=1)
    scaler, model = cold(features, label, np.arange(200), c)
    (solution,) = walk(scaler.transform(features), linear.CrossEntropy.of(label), [c], tolerance=1e-8)
    assert solution.converged
    np.testing.assert_allclose(solution.coefficients.T, model.coef_, atol=2e-5 * np.abs(model.coef_).max())
    np.testing.assert_allclose(solution.intercept, model.intercept_, atol=2e-5)


def test_the_path_and_a_cold_fit_agree():
    features, label = blobs(3, rows=200, dim=20)
    standardised = StandardScaler().fit_transform(features)
    loss = linear.CrossEntropy.of(label)
    for solution in walk(standardised, loss, linear.C_PATH, tolerance=1e-8):
        (alone,) = walk(standardised, loss, [solution.c], tolerance=1e-8)
        np.testing.assert_allclose(solution.coefficients, alone.coefficients, atol=1e-4)


@pytest.mark.parametrize(("axes", "rows"), [(3, 1000), (128, 30), (1, 7)])
def test_axes_that_are_few_or_of_few_rows_change_nothing(monkeypatch, axes, rows):
    features, label = blobs(3, rows=200, dim=20)
    scaler, model = cold(features, label, np.arange(200), 1.0)
    monkeypatch.setattr(penalised, "_AXES", axes)
    monkeypatch.setattr(penalised, "_ROWS", rows)
    (solution,) = walk(scaler.transform(features), linear.CrossEntropy.of(label), [1.0], tolerance=1e-8)
    np.testing.assert_allclose(solution.coefficients.T, model.coef_, atol=2e-5 * np.abs(model.coef_).max())


def test_the_leading_axes_are_the_principal_ones():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 40)) * 2.0 ** -np.arange(40)
    axes = penalised.LeadingAxes.of(features)
    values = np.linalg.eigvalsh(features.T @ features)
    np.testing.assert_allclose(np.sort(axes.spread), values / 300, atol=1e-12)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(40), atol=1e-10)
    assert axes.rest == pytest.approx(0, abs=1e-12)


def test_what_the_leading_axes_leave_is_spread_evenly(monkeypatch):
    monkeypatch.setattr(penalised, "_AXES", 10)
    features = np.random.default_rng(0).normal(size=(300, 40))
    features[:, 7] *= 30
    axes = penalised.LeadingAxes.of(features)
    total = float((features**2).sum()) / 300
    assert axes.spread.shape == (10,) and axes.directions.shape == (40, 10)
    assert axes.spread.sum() + 30 * axes.rest == pytest.approx(total)
    assert abs(axes.directions[7, axes.spread.argmax()]) > 0.99


def test_a_fit_that_stops_early_says_so(monkeypatch):
    features, label = blobs(2)
    monkeypatch.setattr(penalised, "MAX_ITERATIONS", 1)
    assert not linear.fit(features, label, np.arange(60), np.arange(60, 90), classes=2).converged


def test_test_rows_leave_the_fit_unchanged():
    features, label = blobs(2)
    train, validation = np.arange(60), np.arange(60, 90)
    one = linear.fit(features, label, train, validation, classes=2)
    features[90:] = 1e6
    label[90:] = 1 - label[90:]
    other = linear.fit(features, label, train, validation, classes=2)
    assert one.c == other.c
    np.testing.assert_array_equal(one.solution.coefficients, other.solution.coefficients)
    np.testing.assert_array_equal(one.validation, other.validation)


def test_without_validation_c_is_the_default():
    features, label = blobs(2)
    probe = linear.fit(features, label, np.arange(60), np.arange(0), classes=2)
    assert probe.c == linear.C_DEFAULT
    assert probe.path == {}


def test_a_constant_feature_is_harmless():
    features, label = blobs(2)
    features[:, 5] = 7.0
    probability = linear.fit(features, label, np.arange(60), np.arange(60, 90), classes=2)(features[90:])
    assert np.isfinite(probability).all()


def test_a_class_that_was_never_fitted_has_probability_zero():
    features, label = blobs(2)
    probability = linear.fit(features, label, np.arange(60), np.arange(60, 90), classes=3)(features[90:])
    assert probability.shape == (30, 3)
    assert (probability[:, 2] == 0).all()
    np.testing.assert_allclose(probability.sum(1), 1)
