from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from sgcl_cli.probe.models import ridge


@pytest.mark.parametrize("dim", [5, 120])
def test_equals_scikit_learn(dim):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, dim)) * 3 + 7
    values = features[:, 0] * 2 + rng.normal(size=90) + 100
    train, validation, both = np.arange(50), np.arange(50, 70), np.arange(70)
    probe = ridge.fit(features, values, train, validation)
    errors = {}
    for alpha in ridge.ALPHA_PATH:
        scaler = StandardScaler().fit(features[train])
        model = Ridge(alpha=alpha).fit(scaler.transform(features[train]), values[train])
        errors[alpha] = float(
            ((model.predict(scaler.transform(features[validation])) - values[validation]) ** 2).mean()
        )
    assert probe.path == pytest.approx(errors, rel=1e-8)
    assert probe.alpha == min(errors, key=errors.get)
    scaler = StandardScaler().fit(features[both])
    model = Ridge(alpha=probe.alpha).fit(scaler.transform(features[both]), values[both])
    np.testing.assert_allclose(probe(features[70:]), model.predict(scaler.transform(features[70:])), rtol=1e-9)


def test_test_rows_leave_the_fit_unchanged():
    rng = np.random.default_rng(1)
    features, values = rng.normal(size=(60, 4)), rng.normal(size=60)
    one = ridge.fit(features, values, np.arange(30), np.arange(30, 45))
    features[45:], values[45:] = 1e6, -1e6
    other = ridge.fit(features, values, np.arange(30), np.arange(30, 45))
    np.testing.assert_array_equal(one.coefficients, other.coefficients)


def test_without_validation_alpha_is_the_default():
    features = np.arange(20.0).reshape(10, 2) ** 1.5
    probe = ridge.fit(features, np.arange(10.0), np.arange(10), np.arange(0))
    assert (probe.alpha, probe.path) == (ridge.ALPHA_DEFAULT, {})
