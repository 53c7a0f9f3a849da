from __future__ import annotations

import pytest
import torch

from sgcl_cli.method.bank import Queue, first_of_each, random_rows
from sgcl_cli.method.bank import commit as commit_first

CPU = torch.device("cpu")


def commit(rows, index, new, momentum):
    commit_first(rows, index, first_of_each(index), new, momentum)


def test_random_rows_are_unit_and_seeded():
    rows = random_rows(1_000, 16, 3, "v", dtype=torch.float32, device=CPU)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1_000))
    assert torch.equal(rows, random_rows(1_000, 16, 3, "v", dtype=torch.float32, device=CPU))
    assert not torch.equal(rows, random_rows(1_000, 16, 4, "v", dtype=torch.float32, device=CPU))
    assert not torch.equal(rows, random_rows(1_000, 16, 3, "h", dtype=torch.float32, device=CPU))
    narrow = random_rows(1_000, 16, 3, "v", dtype=torch.bfloat16, device=CPU)
    assert torch.equal(narrow, rows.bfloat16())


@pytest.mark.parametrize("momentum", [0.5, 0.25, 1.0])
def test_commit_is_a_normalised_mean(plain, momentum):
    rows, new = plain.unit_rows(6, 4, seed=0), plain.unit_rows(2, 4, seed=1)
    before = rows.clone()
    commit(rows, torch.tensor([5, 2]), new, momentum)
    for place, i in enumerate([5, 2]):
        mixed = (1 - momentum) * before[i] + momentum * new[place]
        torch.testing.assert_close(rows[i], mixed / mixed.norm())
    assert torch.equal(rows[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_an_index_that_comes_twice_counts_where_it_comes_first(plain):
    rows, new = plain.unit_rows(6, 4, seed=0), plain.unit_rows(4, 4, seed=1)
    once = rows.clone()
    commit(rows, torch.tensor([3, 1, 3, 1]), new, 0.5)
    commit(once, torch.tensor([3, 1]), new[:2], 0.5)
    assert torch.equal(rows, once)
    assert first_of_each(torch.tensor([9, 2, 9, 4, 2])).tolist() == [0, 1, 0, 3, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_banks_move_at_once_as_they_would_one_by_one(plain, dtype):
    rows, new = plain.unit_rows(4, 6, 8, seed=0).to(dtype), plain.unit_rows(4, 3, 8, seed=1)
    single, index = rows.clone(), torch.tensor([3, 1, 3])
    commit(rows, index, new, 0.5)
    for bank, part in zip(single, new, strict=True):
        commit(bank, index, part, 0.5)
    assert torch.equal(rows, single)


def test_queue_is_first_in_first_out(plain):
    queue = Queue(5, 4, 0, CPU)
    assert queue.index_Q.tolist() == [-1] * 5
    keys = plain.unit_rows(7, 4, seed=1)
    queue.push(torch.arange(3), keys[:3])
    queue.push(torch.arange(3, 7), keys[3:])
    assert queue.index_Q.tolist() == [5, 6, 2, 3, 4]
    torch.testing.assert_close(queue.row_QD, keys[[5, 6, 2, 3, 4]])
    assert queue.head == 2


def test_a_batch_longer_than_the_queue_leaves_its_last_keys(plain):
    queue = Queue(3, 4, 0, CPU)
    queue.push(torch.arange(5), plain.unit_rows(5, 4, seed=1))
    assert sorted(queue.index_Q.tolist()) == [2, 3, 4]
