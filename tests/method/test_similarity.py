from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method.losses import contrast
from sgcl_cli.method.similarity import (
    NOTHING,
    log_sum_drawn,
    log_sum_sets,
    log_sum_shared,
    most_similar,
    most_similar_by_keys,
    most_similar_by_sort,
    rows_of,
    set_similarity,
    with_slopes,
)


@pytest.fixture
def v(plain):
    return plain.unit_rows(5, 8, seed=0)


@pytest.fixture
def rows(plain):
    return plain.unit_rows(900, 8, seed=1)


def weigh(value):
    return (value * torch.arange(1.0, len(value) + 1, dtype=value.dtype)).sum()


def same_value_and_slope(value, slope, v, wanted):
    """Values of single rows: so that the gradient of a weighted sum is the weighted slopes."""
    exact = v.double().requires_grad_()
    expected = wanted(exact)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    weigh(expected).backward()
    weight = torch.arange(1.0, len(value) + 1)[:, None]
    torch.testing.assert_close((slope / 0.07 * weight).double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2_000, 1 << 28])
def test_shared_rows(v, rows, at_once, monkeypatch):
    monkeypatch.setattr("sgcl_cli.method.similarity._SIMILARITIES_AT_ONCE", {"cpu": at_once})
    own = torch.arange(5) * 7
    index = torch.cat([torch.arange(400), torch.arange(400, 900) % 50])

    def wanted(exact):
        s = exact @ rows.double().T / 0.07
        return s.masked_fill(index == own[:, None], -torch.inf).logsumexp(1)

    same_value_and_slope(*log_sum_shared(v / 0.07, own, rows, index), v, wanted)


def test_no_row_left_gives_nothing_and_no_slope(v, rows):
    value, slope = log_sum_shared(v / 0.07, torch.zeros(5), rows[:3], torch.zeros(3))
    assert float(value.max()) < -1e29
    assert float((slope * contrast(torch.zeros(5), value)[1][:, None]).abs().max()) == 0


def test_more_dimensions_in_front_are_as_many_calls(plain, rows):
    v, own = plain.unit_rows(4, 5, 8, seed=2), torch.arange(5) * 7
    value, slope = log_sum_shared(v, own, rows, torch.arange(900))
    for y in range(4):
        for found, wanted in zip((value[y], slope[y]), log_sum_shared(v[y], own, rows, torch.arange(900)), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("at_once", [1, 1 << 27])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sets_of_different_sizes(v, rows, dtype, at_once, monkeypatch):
    monkeypatch.setattr("sgcl_cli.method.similarity._GATHERED_AT_ONCE", at_once)
    rows = rows.to(dtype)
    members = [list(range(300)), [5], [], list(range(100, 228)), list(range(0, 900, 7))]
    index = torch.tensor([899, 898, 897, 896, 895])
    table = index[:, None].repeat(1, 301)
    for b, row in enumerate(members):
        table[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    s = set_similarity(v.detach(), rows, table)
    torch.testing.assert_close(s, torch.einsum("bd,bxd->bx", v.detach(), rows[table].float()))

    def wanted_of(exact, some):
        sums = [(rows.double()[members[b]] @ one / 0.07).logsumexp(0) for one, b in zip(exact, some, strict=True)]
        return torch.stack(sums)

    value, slope, logit = log_sum_sets(v, rows, table, index, 0.07)
    for b, row in enumerate(members):
        torch.testing.assert_close(logit[b, : len(row)] * 0.07, s[b, : len(row)])
        assert float(logit[b, len(row) :].max()) < NOTHING / 2
    some = [0, 1, 3, 4]
    same_value_and_slope(value[some], slope[some], v[some], lambda exact: wanted_of(exact, some))
    assert float(value[2]) < -1e29


def test_draws_count_as_often_as_they_come(v, rows):
    s = v @ rows.T
    place = torch.stack([torch.randperm(900, generator=torch.Generator().manual_seed(b))[:40] for b in range(5)])
    drawn = place.repeat_interleave(torch.arange(40) % 4, dim=1)

    def wanted(exact):
        return torch.einsum("bd,bzd->bz", exact, rows.double()[drawn]).div(0.07).logsumexp(1)

    value, slope, logit = log_sum_drawn(s, rows, drawn, 0.07)
    torch.testing.assert_close(logit * 0.07, s.gather(1, drawn))
    same_value_and_slope(value, slope, v, wanted)


def test_a_number_with_slopes_has_their_gradient(v):
    first, second = v.clone().requires_grad_(), v.clone().requires_grad_()
    value = with_slopes(torch.tensor(3.0), (first, v + 1), (second, v + 2))
    (2 * value).backward()
    assert value.item() == 3
    torch.testing.assert_close(first.grad, 2 * (v + 1))
    torch.testing.assert_close(second.grad, 2 * (v + 2))


BOTH = pytest.mark.parametrize("ranked", [most_similar, most_similar_by_keys, most_similar_by_sort])


@BOTH
def test_order_is_by_similarity_then_by_position(ranked):
    s = torch.tensor([[0.5, -0.0, -3.0, 0.0, 0.5, 1e-30, -1e-30, 7.0, -1e30, -torch.inf]])
    assert ranked(s, 10).tolist() == [[7, 0, 4, 5, 1, 3, 6, 2, 8, 9]]


@BOTH
def test_most_similar_comes_first_and_repeats_no_position(plain, ranked):
    s = plain.coarse_rows(70, 50, seed=0)
    place = ranked(s, 30)
    for row in range(70):
        assert place[row].tolist() == sorted(range(50), key=lambda j: (-float(s[row, j]), j))[:30]


@effort(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=6, max_size=6), min_size=2, max_size=4),
    count=st.integers(1, 6),
)
def test_a_cpu_and_a_gpu_rank_alike(rows, count):
    s = torch.tensor(rows).view(len(rows), 1, 6)
    assert torch.equal(most_similar_by_keys(s, count), most_similar_by_sort(s, count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_widened_and_take_the_shape_of_their_indices(rows, dtype):
    rows = rows.to(dtype)
    for index in (torch.arange(0, 900, 3), torch.arange(12).view(3, 4)):
        found = rows_of(rows, index)
        assert found.dtype == torch.float32
        assert torch.equal(found, rows[index].float())
