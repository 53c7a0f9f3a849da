from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.probe.models.cox import cox_loss


def by_loops(risk, time, event):
    """Efron 1977, as it is written."""
    total = 0.0
    for t in sorted({t for t, e in zip(time, event, strict=True) if e}):
        died = [i for i in range(len(time)) if time[i] == t and event[i]]
        at_risk = sum(math.exp(risk[j]) for j in range(len(time)) if time[j] >= t)
        tied = sum(math.exp(risk[i]) for i in died)
        total += sum(risk[i] for i in died)
        for l in range(len(died)):  # noqa: E741
            total -= math.log(at_risk - l / len(died) * tied)
    return -total / sum(event)


@pytest.mark.parametrize("seed", range(6))
def test_equals_loops_with_ties_and_censoring(seed):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=25) * 2
    time = rng.integers(1, 8 if seed % 2 else 1000, size=25).astype(float)
    event = rng.random(25) < 0.6
    found = cox_loss(torch.from_numpy(risk), torch.from_numpy(time), torch.from_numpy(event))
    assert found.item() == pytest.approx(by_loops(risk.tolist(), time.tolist(), event.tolist()), abs=1e-12)


def test_gradient_equals_differences():
    rng = np.random.default_rng(0)
    time = torch.from_numpy(rng.integers(1, 5, size=12).astype(float))
    event = torch.from_numpy((rng.random(12) < 0.7).astype(np.int64))
    risk = torch.from_numpy(rng.normal(size=12)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cox_loss(s, time, event), (risk,))


def test_risks_of_any_size_are_safe():
    risk = torch.tensor([900.0, -900.0, 0.0], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(900 / 3)
    assert torch.isfinite(risk.grad).all()


def test_nobody_with_an_event_gives_zero_and_no_gradient():
    risk = torch.randn(4, requires_grad=True)
    cox_loss(risk, torch.arange(4.0), torch.zeros(4)).backward()
    assert risk.grad.tolist() == [0.0] * 4


def test_a_shift_of_all_risks_and_the_order_of_rows_do_not_matter():
    rng = np.random.default_rng(3)
    risk, time = torch.from_numpy(rng.normal(size=30)), torch.from_numpy(rng.integers(1, 9, 30))
    event = torch.from_numpy(rng.random(30) < 0.5)
    order = torch.from_numpy(rng.permutation(30))
    expected = cox_loss(risk, time, event).item()
    assert cox_loss(risk + 5, time, event).item() == pytest.approx(expected)
    assert cox_loss(risk[order], time[order], event[order]).item() == pytest.approx(expected)
