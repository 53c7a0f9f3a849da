from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sgcl_cli.probe import linear


def blobs(classes: int, seed: int = 0, rows: int = 120, dim: int = 8):
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    features = rng.normal(size=(rows, dim)) * 3 + 5
    features[np.arange(rows), label] += 4
    return features, label.astype(np.int64)


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_a_cold_fit_of_scikit_learn(classes):
    features, label = blobs(classes)
    train, validation, test = np.arange(60), np.arange(60, 90), np.arange(90, 120)
    probe = linear.fit(features, label, train, validation, classes=classes)

    losses = {}
    for c in linear.C_PATH:
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=c, max_iter=2000, tol=1e-6).fit(scaler.transform(features[train]), label[train])
        losses[c] = log_loss(label[validation], model.predict_proba(scaler.transform(features[validation])))
    assert probe.c == min(losses, key=losses.get)
    assert [probe.path[c] for c in linear.C_PATH] == pytest.approx([losses[c] for c in linear.C_PATH], abs=2e-3)

    both = np.arange(90)
    scaler = StandardScaler().fit(features[both])
    model = LogisticRegression(C=probe.c, max_iter=2000).fit(scaler.transform(features[both]), label[both])
    expected = model.predict_proba(scaler.transform(features[test]))
    np.testing.assert_allclose(probe(features[test]), expected, atol=1e-8)
    assert probe.converged


def test_test_rows_leave_the_fit_unchanged():
    features, label = blobs(2)
    train, validation = np.arange(60), np.arange(60, 90)
    one = linear.fit(features, label, train, validation, classes=2)
    features[90:] = 1e6
    label[90:] = 1 - label[90:]
    other = linear.fit(features, label, train, validation, classes=2)
    assert one.c == other.c
    np.testing.assert_array_equal(one.model.coef_, other.model.coef_)


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
