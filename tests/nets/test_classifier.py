"""A linear layer on an encoder, trained as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sgcl_cli.nets.classifier import Classifier


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 500)), 500, 40)


def test_scores_are_linear_in_the_features(model: Classifier) -> None:
    images = torch.rand(2, 3, 2, 2)
    features = model.encoder(images)
    torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)
    assert model(images).shape == (2, 40)


def test_the_head_starts_small_and_without_bias(model: Classifier) -> None:
    assert model.head.bias.abs().max() == 0
    assert float(model.head.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_gradients_reach_the_encoder(model: Classifier) -> None:
    nn.functional.cross_entropy(model(torch.rand(4, 3, 2, 2)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(float(value.grad.abs().max()) > 0 for value in model.parameters())
