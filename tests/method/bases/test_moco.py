from __future__ import annotations

import torch

from sgcl_cli.method.objective import Embedded
from tests.method.made import options


def test_queue_takes_the_keys(plain):
    case = plain.case(options(base="moco", weight_spatial=0, weight_inner=0, queue=12), 60, batch=6)
    keys = plain.unit_rows(6, 16, seed=9)
    case.objective.commit(torch.arange(6), Embedded(keys, keys))
    torch.testing.assert_close(case.objective.base.queue.row_QD[:6], keys)
    assert case.objective.base.queue.index_Q[:6].tolist() == list(range(6))
    assert case.objective.base.queue.head == 6


def test_the_queue_and_whose_keys_it_holds_are_its_state(plain):
    first, second = (plain.case(options(base="moco", queue=12), 60, seed=seed).objective.base for seed in (0, 1))
    first.commit(torch.arange(5), Embedded(plain.unit_rows(5, 16, seed=4), plain.unit_rows(5, 16, seed=5)))
    second.load_state_dict(first.state_dict())
    assert second.queue.head == 5
    assert torch.equal(second.queue.row_QD, first.queue.row_QD)
    assert torch.equal(second.queue.index_Q, first.queue.index_Q)
