"""Kept models predict what their arrays say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.probe import fitted
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.models import build
from sgcl_cli.probe.models.ridge import RidgeProbe
from sgcl_cli.probe.models.simpleshot import Centroids
from sgcl_cli.probe.models.standardise import Standardiser
from sgcl_cli.probe.models.targets import Classes, Measurements

ROWS = np.array([[1.0, 4.0], [3.0, 2.0], [0.0, 0.0]])
SCALE = Standardiser(np.array([1.0, 2.0]), np.array([2.0, 1.0]))  # ROWS become (0, 2), (1, 0), (-0.5, -2)


def test_a_constant() -> None:
    assert fitted.predict_rows(fitted.constant(np.array([0.25, 0.75])), ROWS).tolist() == [[0.25, 0.75]] * 3


def test_a_ridge_regression() -> None:
    probe = RidgeProbe(SCALE, np.array([3.0, 1.0]), 10.0, 1.0, {})
    assert fitted.predict_rows(fitted.ridge(probe), ROWS).tolist() == [[12.0], [13.0], [6.5]]


def test_a_logistic_regression_gives_zero_to_a_class_it_never_saw() -> None:
    arrays = {"mean": SCALE.mean, "scale": SCALE.scale, "coefficients": np.array([[1.0], [1.0]])}
    one = Fitted("logistic", {**arrays, "intercept": np.array([0.5]), "present": np.array([0, 2])}, {"classes": 3})
    expected = []
    for score in (2.5, 1.5, -2.0):
        p = 1 / (1 + math.exp(-score))
        expected.append([1 - p, 0.0, p])
    np.testing.assert_allclose(fitted.predict_rows(one, ROWS), expected)


def test_neighbours_vote_by_their_likeness() -> None:
    one = fitted.neighbours(np.array([1, 0]), np.array([0, 1]), k=2, temperature=0.5, classes=2)
    one = one.with_reference(np.array([[0.0, 1.0], [1.0, 0.0]]))
    near, far = math.exp(0.8 / 0.5), math.exp(0.6 / 0.5)
    found = fitted.predict_rows(one, np.array([[4.0, 3.0]]))
    np.testing.assert_allclose(found, [[near / (near + far), far / (near + far)]])


def test_centroids_and_a_layer_predict_as_they_did() -> None:
    model = Centroids.fit(ROWS, np.array([0, 1, 1]), classes=2)
    np.testing.assert_array_equal(fitted.predict_rows(fitted.centroids(model), ROWS), model(ROWS))
    torch.manual_seed(0)
    layer = nn.Linear(2, 3)
    kept = fitted.softmax_layer(SCALE, layer)
    expected = torch.softmax(layer(torch.tensor([[0.0, 2.0], [1.0, 0.0], [-0.5, -2.0]])), 1).detach().numpy()
    with torch.no_grad():
        layer.weight.zero_()  # what was kept is a copy
    np.testing.assert_allclose(fitted.predict_rows(kept, ROWS), expected, rtol=1e-5)


@pytest.fixture
def bags() -> Bags:
    return Bags(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 9]))


def network(outputs: int, name: str):
    torch.manual_seed(0)
    return build(name, torch.zeros(4), torch.ones(4), outputs=outputs, hidden=8, dropout=0.5).eval()


def test_bags_of_classes_with_attention(bags: Bags) -> None:
    model = network(3, "abmil")
    kept = fitted.of_bags(model, Classes(torch.tensor([0, 2]), 3), name="abmil", hidden=8, dropout=0.5)
    found, attention = fitted.predict_bags(kept, bags)
    expected = torch.softmax(model(bags).scores.double(), 1).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [len(one) for one in attention] == [2, 7]
    assert [float(one.sum()) for one in attention] == pytest.approx([1, 1], abs=1e-5)


def test_bags_of_a_measurement_are_in_its_units(bags: Bags) -> None:
    model = network(1, "mean")
    target = Measurements(torch.tensor([10.0, 30.0]), mean=20.0, scale=5.0)
    found, attention = fitted.predict_bags(fitted.of_bags(model, target, name="mean", hidden=8, dropout=0.5), bags)
    np.testing.assert_allclose(found, 5 * model(bags).scores.double().detach().numpy() + 20, rtol=1e-6)
    assert attention is None


def test_arrays_of_another_network_are_refused(bags: Bags) -> None:
    kept = fitted.of_bags(network(3, "mean"), Classes(torch.tensor([0, 2]), 3), name="mean", hidden=10**9, dropout=0.5)
    with pytest.raises(RuntimeError, match="its arrays are not the weights of the network that the card describes"):
        fitted.predict_bags(kept, bags)
