"""Instance discrimination against the equation as a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.method.instance import instance_loss


def rows(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2


@pytest.mark.parametrize("front", [(), (4,)])
def test_loss_and_slope_equal_loops(plain, front: tuple[int, ...]) -> None:
    v, own, others = rows(*front, 3, 5, seed=0), rows(*front, 3, 5, seed=1), rows(7, 5, seed=2)
    index, of = torch.tensor([4, 9, 2]), torch.tensor([9, 0, 1, 9, 2, 5, 6])
    value, slope = instance_loss(v, own, index, others, of, temperature=0.2, weight=3.0)
    losses, slopes = [], []
    for a, b, i in zip(v.view(-1, 5), own.view(-1, 5), index.tolist() * (v.numel() // 15), strict=True):
        kept = [row.numpy() for row, j in zip(others, of.tolist(), strict=True) if j != i]
        loss, gradient = plain.instance(a.numpy(), b.numpy(), kept, 0.2)
        losses.append(loss)
        slopes.append(gradient)
    assert float(value) == pytest.approx(sum(losses) / len(losses))
    np.testing.assert_allclose(slope.view(-1, 5).numpy(), 3.0 * np.array(slopes) / len(slopes), rtol=1e-9)


def test_literal_value() -> None:
    unit = torch.eye(2)
    value, _ = instance_loss(
        unit[:1], unit[:1], torch.tensor([0]), unit[1:], torch.tensor([1]), temperature=0.5, weight=1.0
    )
    assert float(value) == pytest.approx(math.log(1 + math.exp(-2)))


def test_rows_of_the_anchor_alone_leave_no_loss() -> None:
    v = torch.eye(2)[:1]
    value, slope = instance_loss(v, v, torch.tensor([3]), v, torch.tensor([3]), temperature=0.1, weight=1.0)
    assert float(value) == pytest.approx(0.0, abs=1e-9) and float(slope.abs().max()) == pytest.approx(0.0, abs=1e-9)


def test_arguments_are_left_as_they_are() -> None:
    given = rows(3, 5, seed=0), rows(3, 5, seed=1), torch.arange(3), rows(4, 5, seed=2), torch.arange(4)
    before = [tensor.clone() for tensor in given]
    instance_loss(*given, temperature=0.1, weight=2.0)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
