from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sgcl_cli.method.bases import Npid
from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve
from tests.method.made import options


def test_keys_are_the_anchors_own_rows_of_the_bank_and_rows_that_were_drawn(plain):
    settings, _ = resolve(options(temperature=0.3), 40, 10, 3)
    base = Npid(settings, dim=6, seed=0, device=torch.device("cpu"))
    bank, v, index = plain.unit_rows(40, 6, seed=1), plain.unit_rows(3, 6, seed=2), torch.tensor([4, 9, 30])
    draws = Draws(torch.tensor([1, 9, 4, 17, 30, 30]), *(torch.arange(0) for _ in range(4)))
    query = Embedded(v, v)
    loss, ((of, slope),) = base.loss(index, query, None, draws, bank)
    rows = bank.double().numpy()
    wanted = [
        plain.instance(v[b].double().numpy(), rows[i], [rows[k] for k in draws.uniform.tolist() if k != i], 0.3)
        for b, i in enumerate(index.tolist())
    ]
    assert float(loss) == pytest.approx(np.mean([value for value, _ in wanted]), rel=1e-5)
    assert of is v
    np.testing.assert_allclose(slope.numpy(), [gradient / 3 for _, gradient in wanted], rtol=1e-4, atol=1e-6)


def test_a_term_without_weight_draws_nothing():
    settings, _ = resolve(options(uniform_negatives=12), 40, 10, 3)
    made = [
        Npid(each, dim=6, seed=0, device=torch.device("cpu")) for each in (settings, replace(settings, weight_self=0.0))
    ]
    assert [base.uniform_draws for base in made] == [12, 0]
    assert [base.candidates for base in made] == [13, 13] and made[0].state_dict() == {}
