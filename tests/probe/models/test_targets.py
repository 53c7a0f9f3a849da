"""What bags are to predict: losses against loops, predictions in their own units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.probe.models.targets import Classes, Measurements, Survival

SCORES = torch.tensor([[0.2, -0.4], [1.0, 0.3], [-0.7, 0.9]], dtype=torch.float64)


def test_classes_have_the_mean_cross_entropy() -> None:
    target = Classes(torch.tensor([1, 0, 0, 1]), 2)
    chosen = torch.tensor([0, 3, 2])  # the labels 1, 1, 0
    loss = 0.0
    for (a, b), label in zip(SCORES.tolist(), [1, 1, 0], strict=True):
        loss -= math.log(math.exp((a, b)[label]) / (math.exp(a) + math.exp(b))) / 3
    assert float(target.loss(SCORES, chosen)) == pytest.approx(loss)


def test_classes_predict_probabilities() -> None:
    found = Classes(torch.tensor([0, 1]), 2).predict(torch.tensor([[0.0, math.log(3.0)]]))
    assert found.tolist() == [pytest.approx([0.25, 0.75])]


def test_measurements_are_standardised_by_the_training_rows() -> None:
    target = Measurements.fit(torch.tensor([1.0, 3.0, 100.0]), np.array([0, 1]))
    assert (target.mean, target.scale, target.classes, target.outputs) == (2.0, 1.0, None, 1)
    assert Measurements.fit(torch.tensor([5.0, 5.0]), np.array([0, 1])).scale == 1.0


def test_measurements_have_the_squared_error_in_variances() -> None:
    target = Measurements(torch.tensor([10.0, 20.0, 30.0]), mean=20.0, scale=5.0)
    loss = target.loss(torch.tensor([[1.0], [-1.0]]), torch.tensor([2, 0]))
    assert float(loss) == pytest.approx((1.0**2 + 1.0**2) / 2)
    assert target.predict(torch.tensor([[2.0]])).tolist() == [[30.0]]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([0, 1, 2], True),
        ([1, 2], False),  # no event
        ([0], False),  # nobody else
        ([2, 3], False),  # the event is last
        ([], False),
    ],
)
def test_survival_needs_an_event_with_somebody_at_risk(chosen: list[int], expected: bool) -> None:
    target = Survival(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 0, 0, 1]))
    assert target.informative(np.array(chosen, np.int64)) is expected


def test_survival_has_the_partial_likelihood_per_event() -> None:
    target = Survival(torch.tensor([9.0, 3.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 1]))
    risk, time, event = [0.5, -1.0, 0.25], [1.0, 2.0, 3.0], [1, 1, 0]
    loss, events = 0.0, 0
    for i in range(3):
        if event[i]:
            at_risk = sum(math.exp(risk[j]) for j in range(3) if time[j] >= time[i])
            loss, events = loss - math.log(math.exp(risk[i]) / at_risk), events + 1
    scores = torch.tensor(risk, dtype=torch.float64)[:, None]
    assert float(target.loss(scores, torch.tensor([2, 3, 1]))) == pytest.approx(loss / events)
    assert target.predict(scores) is scores
