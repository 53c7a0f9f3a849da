from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.probe.models import linear_cox
from sgcl_cli.probe.models.cox import cox_loss


def cohort(rows=90, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, dim)) * 2 + 4
    hazard = np.exp(0.8 * (features[:, 0] - 4) - 0.4 * (features[:, 1] - 4))
    time = np.ceil(20 * rng.exponential(1 / hazard))
    return features, time, (rng.random(rows) < 0.7).astype(np.int64)


def test_equals_a_minimum_found_otherwise():
    features, time, event = cohort()
    rows = np.arange(90)
    probe = linear_cox.fit(features, time, event, rows, rows[:0])
    assert probe.converged
    assert probe.path == {}
    x = torch.from_numpy((features - features.mean(0)) / features.std(0))
    w = torch.zeros(6, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    penalty = 1 / (linear_cox.C_DEFAULT * event.sum())

    def closure():
        optimiser.zero_grad()
        loss = cox_loss(x @ w, torch.from_numpy(time), torch.from_numpy(event)) + penalty / 2 * (w @ w)
        loss.backward()
        return loss

    optimiser.step(closure)
    np.testing.assert_allclose(probe.solution.coefficients[:, 0], w.detach(), atol=1e-5)


def test_recovers_the_hazard_and_ignores_test_rows():
    features, time, event = cohort(rows=400)
    train, validation, test = np.arange(250), np.arange(250, 320), np.arange(320, 400)
    probe = linear_cox.fit(features, time, event, train, validation)
    assert np.corrcoef(probe(features[test]), 0.8 * features[test, 0] - 0.4 * features[test, 1])[0, 1] > 0.97
    assert probe.c == min(probe.path, key=probe.path.get)
    features[test], time[test], event[test] = 1e5, 1, 1 - event[test]
    again = linear_cox.fit(features, time, event, train, validation)
    np.testing.assert_array_equal(again.solution.coefficients, probe.solution.coefficients)


def test_validation_without_an_event_leaves_the_default():
    features, time, event = cohort()
    event[60:] = 0
    probe = linear_cox.fit(features, time, event, np.arange(60), np.arange(60, 90))
    assert probe.c == pytest.approx(linear_cox.C_DEFAULT)
