from __future__ import annotations

import pytest
import torch

from sgcl_cli.method.lists import Lists
from sgcl_cli.method.similarity import (
    list_similarity,
    log_sum_lists,
    log_sum_ranked,
    log_sum_shared,
    most_similar,
    pool_similarity,
    rows_of,
    sort_key,
)


@pytest.fixture
def v(plain):
    return plain.unit_rows(5, 8, seed=0).requires_grad_()


@pytest.fixture
def rows(plain):
    return plain.unit_rows(900, 8, seed=1)


def weigh(value):
    return (value * torch.arange(1.0, len(value) + 1, dtype=value.dtype)).sum()


def same_value_and_slope(value, v, wanted):
    exact = v.detach().double().requires_grad_()
    expected = wanted(exact)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    weigh(value).backward()
    weigh(expected).backward()
    torch.testing.assert_close(v.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 37, 1 << 22])
def test_shared_rows(v, rows, at_once):
    own = torch.arange(5) * 7
    blocks = [(rows[:400], torch.arange(400)), (rows[400:], torch.arange(400, 900) % 50)]
    index = torch.cat([part for _, part in blocks])

    def wanted(exact):
        s = exact @ rows.double().T / 0.07
        return s.masked_fill(index == own[:, None], -torch.inf).logsumexp(1)

    same_value_and_slope(log_sum_shared(v, own, blocks, 0.07, at_once), v, wanted)


def test_no_row_left_gives_nothing_and_no_slope(v, rows):
    value = log_sum_shared(v, torch.zeros(5), [(rows[:3], torch.zeros(3))], 0.07)
    torch.logaddexp(torch.zeros(5), value).sum().backward()
    assert float(value.detach().max()) < -1e29
    assert float(v.grad.abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lists_of_different_lengths(v, rows, dtype):
    rows = rows.to(dtype)
    members = [list(range(300)), [5], [], list(range(100, 228)), list(range(0, 900, 7))]
    owner = torch.tensor([b for b, row in enumerate(members) for _ in row])
    lists = Lists.of(owner, torch.tensor([j for row in members for j in row]), 5)
    s = list_similarity(v.detach(), rows, lists)
    torch.testing.assert_close(s, (v.detach()[lists.owner] * rows[lists.members].float()).sum(1))

    def wanted(exact):
        return torch.stack(
            [
                (rows.double()[row] @ exact[b] / 0.07).logsumexp(0) if row else exact.sum() * 0 - 1e30
                for b, row in enumerate(members)
            ]
        )

    value, total = log_sum_lists(v, rows, lists, 0.07)
    torch.testing.assert_close(total, s.sum(), rtol=1e-4, atol=1e-4)
    same_value_and_slope(value[[0, 1, 3, 4]], v, lambda exact: wanted(exact)[[0, 1, 3, 4]])
    assert float(value[2].detach()) < -1e29


def test_ranked_rows_count_as_often_as_they_were_drawn(v, rows):
    s = v.detach() @ rows.T
    position = torch.stack([torch.randperm(900, generator=torch.Generator().manual_seed(b))[:40] for b in range(5)])
    times = (torch.arange(40) % 4).float().expand(5, 40)

    def wanted(exact):
        drawn = torch.stack([position[b].repeat_interleave(times[b].long()) for b in range(5)])
        return torch.einsum("bd,brd->br", exact, rows.double()[drawn]).div(0.07).logsumexp(1)

    value, mean = log_sum_ranked(v, rows, s, position, times, 0.07)
    assert float(mean) == pytest.approx(float((s.gather(1, position) * times).sum() / times.sum()), abs=1e-6)
    same_value_and_slope(value, v, wanted)


def test_keys_order_by_similarity_then_by_position():
    s = torch.tensor([[0.5, -0.0, -3.0, 0.0, 0.5, 1e-30, -1e-30, 7.0, -1e30]])
    order = sort_key(s).argsort(dim=1, descending=True)
    assert order.tolist() == [[7, 0, 4, 5, 1, 3, 6, 2, 8]]


def test_most_similar_leaves_out_and_repeats_no_position(plain):
    s = plain.coarse_rows(70, 50, seed=0)
    out = torch.rand(70, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    position, found = most_similar(s, out, 50)
    for row in range(70):
        wanted = sorted((j for j in range(50) if not out[row, j]), key=lambda j: (-float(s[row, j]), j))
        assert position[row][found[row]].tolist() == wanted
        assert sorted(position[row].tolist()) == list(range(50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_pool_are_widened(v, rows, dtype):
    rows = rows.to(dtype)
    for pool in (torch.arange(900), torch.arange(0, 900, 3)):
        wanted = v.detach() @ rows[pool].float().T
        torch.testing.assert_close(pool_similarity(v.detach(), rows, pool, block=64), wanted)
        assert torch.equal(rows_of(rows, pool), rows[pool].float())


def test_a_whole_float32_bank_is_not_copied(rows):
    assert rows_of(rows, torch.arange(900)).data_ptr() == rows.data_ptr()
