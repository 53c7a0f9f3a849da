"""NPID: keys are rows of the bank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.method.bases.npid import Npid
from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve


def made(**changes) -> Npid:
    settings, _ = resolve(ObjectiveOptions(base="npid", temperature=0.2, **changes), 12, 10, 3)
    return Npid(settings, dim=4, seed=0, device=torch.device("cpu"))


def draws(uniform: list[int]) -> Draws:
    none = torch.empty(0)
    return Draws(torch.tensor(uniform), none, none, none, none)


def rows(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_loss_and_slope_equal_the_equation(weight: float) -> None:
    bank, v, index, uniform = rows(12, 0), rows(3, 1), [5, 0, 11], [5, 2, 2, 7]
    base = made(weight_self=weight)
    loss, slopes = base.loss(torch.tensor(index), Embedded(v, v), None, draws(uniform), bank)
    m, losses, expected = bank.double().numpy(), [], []
    for anchor, i in zip(v.double().numpy(), index, strict=True):
        terms = [(np.exp(anchor @ m[i] / 0.2), m[i])]
        terms += [(np.exp(anchor @ m[k] / 0.2), m[k]) for k in uniform if k != i]
        total = sum(value for value, _ in terms)
        losses.append(-np.log(terms[0][0] / total))
        expected.append((sum(value * row for value, row in terms) / total - m[i]) / 0.2 / 3)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    ((of, slope),) = slopes
    assert of is v
    np.testing.assert_allclose(slope.numpy(), weight * np.array(expected), atol=1e-5)


def test_what_it_asks_for() -> None:
    base = made(uniform_negatives=6)
    assert (base.banked, base.second, base.followed) == (True, False, False)
    assert (base.uniform_draws, base.candidates) == (6, 7)
    assert made(uniform_negatives=6, weight_self=0.0).uniform_draws == 0


def test_it_remembers_nothing_itself() -> None:
    base = made()
    base.commit(torch.tensor([0]), Embedded(rows(1, 0), rows(1, 0)))
    assert base.state_dict() == {}
