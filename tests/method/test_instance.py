from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.method.instance import instance_loss


def test_the_oracles_own_gradients_are_right(plain):
    draw = np.random.default_rng(0)
    v, own, rows = draw.normal(size=5) / 3, draw.normal(size=5) / 3, list(draw.normal(size=(9, 5)) / 3)

    def slope(function):
        steps = 1e-6 * np.eye(5)
        return [(function(v + step) - function(v - step)) / 2e-6 for step in steps]

    _, gradient = plain.instance(v, own, rows, 0.2)
    np.testing.assert_allclose(gradient, slope(lambda x: plain.instance(x, own, rows, 0.2)[0]), rtol=1e-6, atol=1e-8)
    _, gradient = plain.spatial(v, rows[:4], rows[4:], 0.2, None)
    np.testing.assert_allclose(
        gradient, slope(lambda x: plain.spatial(x, rows[:4], rows[4:], 0.2, None)[0]), rtol=1e-6, atol=1e-8
    )
    constant = 7.0 + sum(np.exp(v @ row / 0.2) for row in rows[4:])
    _, gradient = plain.spatial(v, rows[:4], rows[4:], 0.2, 7.0)
    np.testing.assert_allclose(
        gradient, slope(lambda x: plain.spatial(x, rows[:4], [], 0.2, constant)[0]), rtol=1e-6, atol=1e-8
    )


def test_the_mean_and_its_slope_are_those_of_the_equation(plain):
    """The anchor's own patch among the shared rows does not count."""
    v, own, rows = (plain.unit_rows(count, 5, seed=seed) for seed, count in ((1, 4), (2, 4), (3, 9)))
    index, others = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 0, 8, 2, 9, 9, 2, 11, 12])
    loss, slope = instance_loss(v, own, index, rows, others, temperature=0.2, weight=0.5)
    values, gradients = [], []
    for b in range(4):
        kept = [rows[k].double().numpy() for k in range(9) if int(others[k]) != b]
        value, gradient = plain.instance(v[b].double().numpy(), own[b].double().numpy(), kept, 0.2)
        values.append(value)
        gradients.append(0.5 * gradient / 4)
    assert float(loss) == pytest.approx(np.mean(values), rel=1e-5)
    np.testing.assert_allclose(slope.numpy(), gradients, rtol=1e-4, atol=1e-6)
