from __future__ import annotations

import torch
from torch import nn

from sgcl_cli.nets.classifier import Classifier


def test_scores_are_a_linear_layer_of_the_embedding_and_both_learn() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    model = Classifier(encoder, 5, 3)
    images = torch.randn(4, 3, 2, 2)
    scores = model(images)
    torch.testing.assert_close(scores, encoder(images) @ model.head.weight.T + model.head.bias)
    assert model.head.bias.abs().sum() == 0 and 0 < model.head.weight.abs().max() < 0.1
    scores.square().sum().backward()
    assert encoder[1].weight.grad.abs().sum() > 0 and model.head.weight.grad.abs().sum() > 0
