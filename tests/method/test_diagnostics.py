from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from sgcl_cli.method.diagnostics import bank_sample, effective_rank, pair_similarity, spread


def _unit(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_spread_is_1_on_the_sphere_and_0_at_a_point() -> None:
    assert spread(_unit(20_000, 32)).item() == pytest.approx(1, abs=0.02)
    assert spread(_unit(1, 32).expand(50, 32)).item() == pytest.approx(0, abs=1e-6)
    rows = _unit(7, 5).double()
    columns = [[float(row[d]) for row in rows] for d in range(5)]
    deviations = [math.sqrt(sum((x - sum(c) / 7) ** 2 for x in c) / 7) for c in columns]
    assert spread(rows).item() == pytest.approx(math.sqrt(5) * sum(deviations) / 5, rel=1e-5)


def test_pair_similarity_is_the_mean_over_pairs() -> None:
    rows = _unit(9, 4)
    pairs = [float(rows[b] @ rows[c]) for b in range(9) for c in range(9) if b != c]
    assert pair_similarity(rows).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert pair_similarity(rows[:1]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_orthogonal_directions_is_their_number(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0][:rank]
    assert effective_rank(basis.repeat(10, 1)).item() == pytest.approx(rank, rel=1e-3)


def test_effective_rank_by_hand() -> None:
    p = [3 / 4, 1 / 4]
    expected = math.exp(-sum(x * math.log(x) for x in p))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(expected, rel=1e-5)


def test_the_sample_of_a_bank_is_seeded_and_moves_with_the_epoch() -> None:
    bank = _unit(1000, 4).to(torch.bfloat16)
    first = bank_sample(bank, 0, 1, most=100)
    assert first.shape == (100, 4) and first.dtype == torch.float32
    assert torch.equal(first, bank_sample(bank, 0, 1, most=100))
    assert not torch.equal(first, bank_sample(bank, 0, 2, most=100))
    assert not torch.equal(first, bank_sample(bank, 1, 1, most=100))
    assert torch.equal(bank_sample(bank, 0, 1, most=1000), bank.float())
