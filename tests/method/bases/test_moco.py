"""MoCo v2: the keys of the second view, and a queue of earlier keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.method.bases.moco import Moco
from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve

NO_DRAWS = Draws(*[torch.empty(0)] * 5)


def made(seed: int = 0, **changes) -> Moco:
    options = ObjectiveOptions(base="moco", temperature=0.2, queue=8, **changes)
    settings, _ = resolve(options, 40, 10, 2)
    return Moco(settings, dim=4, seed=seed, device=torch.device("cpu"))


def rows(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def pushed(base: Moco, index: list[int], seed: int) -> torch.Tensor:
    key = rows(len(index), seed)
    base.commit(torch.tensor(index), Embedded(key, key))
    return key


def test_loss_and_slope_equal_the_equation() -> None:
    base = made(weight_self=0.5)
    pushed(base, [3, 9], 7)
    v, key, index = rows(2, 1), rows(2, 2), [3, 30]
    loss, ((of, slope),) = base.loss(torch.tensor(index), Embedded(v, v), Embedded(key, key), NO_DRAWS, None)
    queue, owner = base.queue.row_QD.double().numpy(), base.queue.index_Q.tolist()
    losses, expected = [], []
    for anchor, own, i in zip(v.double().numpy(), key.double().numpy(), index, strict=True):
        terms = [(np.exp(anchor @ own / 0.2), own)]
        terms += [(np.exp(anchor @ row / 0.2), row) for row, j in zip(queue, owner, strict=True) if j != i]
        assert len(terms) == (8 if i == 3 else 9)  # its own earlier key does not count
        total = sum(value for value, _ in terms)
        losses.append(-np.log(terms[0][0] / total))
        expected.append((sum(value * row for value, row in terms) / total - own) / 0.2 / 2)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5) and of is v
    np.testing.assert_allclose(slope.numpy(), 0.5 * np.array(expected), atol=1e-5)


def test_the_queue_is_first_in_first_out() -> None:
    base = made()
    first = pushed(base, [0, 1, 2, 3, 4, 5], 1)
    second = pushed(base, [6, 7, 8, 9], 2)
    assert base.queue.index_Q.tolist() == [8, 9, 2, 3, 4, 5, 6, 7]
    torch.testing.assert_close(base.queue.row_QD, torch.cat([second[2:], first[2:], second[:2]]))


def test_a_state_is_taken_up() -> None:
    base, other = made(), made(seed=1)
    pushed(base, [0, 1, 2], 1)
    assert not torch.equal(base.queue.row_QD, other.queue.row_QD)
    other.load_state_dict(base.state_dict())
    for each in (base, other):
        pushed(each, [7, 8], 3)
    assert other.queue.index_Q.tolist() == [0, 1, 2, 7, 8, -1, -1, -1]
    assert torch.equal(base.queue.row_QD, other.queue.row_QD)


def test_what_it_asks_for() -> None:
    base = made()
    assert (base.banked, base.second, base.followed, base.uniform_draws) == (False, True, True, 0)
    assert base.candidates == 9
    settings, _ = resolve(ObjectiveOptions(base="moco", queue=8), 40, 10, 2)
    assert Moco.bytes_needed(settings, dim=4) == base.queue.row_QD.nbytes == 128
