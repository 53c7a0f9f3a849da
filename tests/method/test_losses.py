from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sgcl_cli.method.losses import instance_loss, ramp, released_spatial_loss, spatial_loss
from sgcl_cli.method.similarity import NOTHING


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


def test_two_equal_sums_give_log_two():
    assert float(spatial_loss(torch.zeros(1), torch.zeros(1))) == pytest.approx(math.log(2))
    assert float(instance_loss(torch.zeros(1), torch.zeros(1))) == pytest.approx(math.log(2))


def test_large_logits_neither_overflow_nor_vanish():
    own, others = torch.tensor([300.0, -300.0]), torch.tensor([0.0, 300.0])
    torch.testing.assert_close(instance_loss(own, others), torch.tensor([0.0, 600.0]))


@pytest.mark.parametrize("loss", [instance_loss, spatial_loss])
def test_a_small_loss_keeps_its_value_and_its_gradient_in_float32(loss):
    """ln(1 + e^-20) = e^-20 to 9 digits, and so is the gradient; logaddexp(p, q) - p is 0 in float32, and so is its."""
    log_p, log_q = torch.tensor([40.0], requires_grad=True), torch.tensor([20.0], requires_grad=True)
    value = loss(log_p, log_q)
    value.sum().backward()
    assert float((torch.logaddexp(log_p, log_q) - log_p).detach()) == 0.0
    assert float(value.detach()) == pytest.approx(math.exp(-20), rel=1e-5)
    assert float(log_p.grad) == pytest.approx(-math.exp(-20), rel=1e-5)
    assert float(log_q.grad) == pytest.approx(math.exp(-20), rel=1e-5)


def test_an_empty_side_is_a_number_with_a_finite_gradient():
    nothing, some = torch.tensor([NOTHING], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    no_positives, no_negatives = spatial_loss(nothing, some), spatial_loss(some, nothing)
    assert float(no_positives.detach()) == pytest.approx(1e30) and float(no_negatives.detach()) == 0.0
    (no_positives + no_negatives).sum().backward()
    assert torch.isfinite(nothing.grad).all() and torch.isfinite(some.grad).all()


def test_at_most_the_mean_of_single_positive_losses():
    """Jensen: the sum inside the logarithm is never dearer than one loss per positive."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        s_p, log_q = torch.randn(6, generator=draw) * 4, torch.randn(1, generator=draw) * 4
        joint = spatial_loss(s_p.logsumexp(0, keepdim=True), log_q)
        assert float(joint) <= float(spatial_loss(s_p, log_q).mean()) + 1e-6


def test_released_loss_adds_its_constant_and_detaches_negatives():
    log_p, log_q = torch.tensor([2.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    loss = released_spatial_loss(log_p, log_q, torch.tensor([40.0]))
    share = math.exp(2) / (math.exp(2) + math.exp(1) + 40)
    assert float(loss.detach()) == pytest.approx(-math.log(share + 1e-7), rel=1e-6)
    loss.sum().backward()
    assert log_q.grad is None
    assert float(log_p.grad) < 0


def test_released_loss_without_positives_is_its_epsilon():
    loss = released_spatial_loss(torch.tensor([-1e30]), torch.tensor([1.0]), torch.tensor([40.0]))
    assert float(loss) == pytest.approx(-math.log(1e-7), rel=1e-6)
