from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil.bags import Bags


def by_loops(model, rows: torch.Tensor, gated: bool):
    """Ilse et al. 2018, equations 7 to 9, in float64 for one bag."""
    model = model.double().eval()
    e = [torch.relu(model.embed[0](row * model.inverse + model.shift)) for row in rows.double()]
    inner = [torch.tanh(model.tanh[0](x)) * (torch.sigmoid(model.gate[0](x)) if gated else 1) for x in e]
    scores = [model.score(x).item() for x in inner]
    total = sum(math.exp(score) for score in scores)
    a = [math.exp(score) / total for score in scores]
    return model.classify(sum(weight * x for weight, x in zip(a, e, strict=True))), a


@pytest.mark.parametrize("name", ["abmil", "gated-abmil"])
def test_equals_the_equations(name, bags, make):
    model = make(name)
    output = model.eval()(bags)
    attention = bags.split(output.attention)
    for number, rows in enumerate(bags.split(bags.rows)):
        expected, weights = by_loops(make(name), rows, name == "gated-abmil")
        np.testing.assert_allclose(output.scores[number].detach(), expected.detach(), atol=1e-5)
        np.testing.assert_allclose(attention[number].detach(), weights, atol=1e-6)


def padded(model, bags: Bags):
    """The same model on a padded and masked cube (B, longest, D)."""
    lengths = bags.lengths
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    cube = torch.full((*mask.shape, bags.rows.shape[1]), 1e3)
    cube[mask] = bags.rows
    e = model.embed(cube * model.inverse + model.shift)
    s = model.attend(e.flatten(0, 1)).reshape(mask.shape)
    a = torch.softmax(s.masked_fill(~mask, -torch.inf), 1)
    return model.classify((a[..., None] * e).sum(1))


@pytest.mark.parametrize("name", ["abmil", "gated-abmil"])
def test_packed_equals_padded_and_so_do_the_gradients(name, bags, make):
    model = make(name).eval()
    grown = {}
    for how, scores in (("packed", model(bags).scores), ("padded", padded(model, bags))):
        model.zero_grad()
        scores.square().sum().backward()
        grown[how] = [scores.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    for one, other in zip(grown["packed"], grown["padded"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
