from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sgcl_cli.method.losses import contrast, ramp, released_contrast


@pytest.mark.parametrize(
    ("epoch", "length", "expected"),
    [
        (0.0, 10.0, math.exp(-5)),
        (5.0, 10.0, math.exp(-1.25)),
        (2.5, 10.0, math.exp(-5 * 0.5625)),
        (10.0, 10.0, 1.0),
        (99.0, 10.0, 1.0),
        (1.0, 2.0, math.exp(-1.25)),
        (0.0, 0.0, 1.0),
    ],
)
def test_ramp(epoch, length, expected):
    assert ramp(epoch, length) == pytest.approx(expected, rel=1e-12)


def test_ramp_moves_every_step():
    values = [ramp(step / 100, 10.0) for step in range(1_001)]
    assert all(a < b for a, b in pairwise(values))


def loss(log_p, log_q):
    return contrast(log_p, log_q)[0]


def test_two_equal_sums_give_log_two():
    value, slope = contrast(torch.zeros(1), torch.zeros(1))
    assert float(value) == pytest.approx(math.log(2))
    assert float(slope) == 0.5


def test_large_logits_neither_overflow_nor_vanish():
    own, others = torch.tensor([300.0, -300.0, -1e30, 0.0]), torch.tensor([0.0, 300.0, 0.0, -1e30])
    value, slope = contrast(own, others)
    torch.testing.assert_close(value, torch.tensor([0.0, 600.0, 1e30, 0.0]))
    torch.testing.assert_close(slope, torch.tensor([0.0, 1.0, 1.0, 0.0]))


def test_a_small_loss_is_not_rounded_to_nothing():
    """S_Q / S_P = e^-20 is below what float32 tells from 1, yet it is the loss and its slope."""
    log_p, log_q = torch.tensor([300.0]), torch.tensor([280.0])
    assert float(torch.logaddexp(log_p, log_q) - log_p) == 0
    value, slope = contrast(log_p, log_q)
    assert float(value) == pytest.approx(math.exp(-20), rel=1e-5)
    assert float(slope) == pytest.approx(math.exp(-20), rel=1e-5)


def test_slopes_are_those_of_autograd():
    draw = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.randn(20, generator=draw, dtype=torch.float64) * 4 for _ in range(2))
    p, q = log_p.clone().requires_grad_(), log_q.clone().requires_grad_()
    (-torch.log(p.exp() / (p.exp() + q.exp()))).sum().backward()
    slope = contrast(log_p, log_q)[1]
    torch.testing.assert_close(slope, q.grad)
    torch.testing.assert_close(-slope, p.grad)
    outside, p = torch.full((20,), 40.0, dtype=torch.float64), log_p.clone().requires_grad_()
    value = -torch.log(p.exp() / (p.exp() + log_q.exp() + outside) + 1e-7)
    value.sum().backward()
    got, slope = released_contrast(log_p, log_q, outside)
    torch.testing.assert_close(got, value.detach())
    torch.testing.assert_close(-slope, p.grad)


def test_at_most_the_mean_of_single_positive_losses():
    """Jensen: the sum inside the logarithm is never dearer than one loss per positive."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        s_p, log_q = torch.randn(6, generator=draw) * 4, torch.randn(1, generator=draw) * 4
        joint = loss(s_p.logsumexp(0, keepdim=True), log_q)
        assert float(joint) <= float(loss(s_p, log_q).mean()) + 1e-6


def test_released_loss_adds_its_constant():
    value, slope = released_contrast(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([40.0]))
    share = math.exp(2) / (math.exp(2) + math.exp(1) + 40)
    assert float(value) == pytest.approx(-math.log(share + 1e-7), rel=1e-6)
    assert float(slope) == pytest.approx(1 - share, rel=1e-5)


def test_released_loss_without_positives_is_its_epsilon():
    value, slope = released_contrast(torch.tensor([-1e30]), torch.tensor([1.0]), torch.tensor([40.0]))
    assert float(value) == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert float(slope) == 0
