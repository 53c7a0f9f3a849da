from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method.lists import Lists, distinct, union

nested = st.lists(st.lists(st.integers(0, 30), max_size=9, unique=True).map(sorted), min_size=1, max_size=6)


def make(rows):
    owner = torch.tensor([row for row, members in enumerate(rows) for _ in members], dtype=torch.int64)
    member = torch.tensor([member for members in rows for member in members], dtype=torch.int64)
    return Lists.of(owner, member, len(rows))


def read(lists):
    offsets, members = lists.offsets.tolist(), lists.members.tolist()
    return [members[a:b] for a, b in pairwise(offsets)]


@effort(max_examples=60, deadline=None)
@given(rows=nested, data=st.data())
def test_lists_behave_as_nested_lists(rows, data):
    lists = make(rows)
    assert read(lists) == rows
    assert lists.lengths.tolist() == [len(row) for row in rows]
    assert lists.longest == max(len(row) for row in rows)
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    assert read(lists.take(torch.tensor(order))) == [rows[place] for place in order]
    assert read(lists.keep(lists.members % 2 == 0)) == [[member for member in row if member % 2 == 0] for row in rows]
    width = lists.longest
    table = lists.padded(lists.members, -1).tolist()
    assert table == [row + [-1] * (width - len(row)) for row in rows]


@effort(max_examples=60, deadline=None)
@given(rows=nested, width=st.integers(1, 4), at_once=st.integers(1, 5))
def test_tiles_cover_every_entry_once(rows, width, at_once):
    lists = make(rows)
    found = [[] for _ in rows]
    for tiles in lists.tiles(width, at_once):
        assert len(tiles.owner) <= at_once
        for owner, slot, entries, valid in zip(*(part.tolist() for part in tiles), strict=True):
            assert slot * width == len(found[owner])
            found[owner] += [int(lists.members[e]) for e, ok in zip(entries, valid, strict=True) if ok]
    assert found == rows


@effort(max_examples=60, deadline=None)
@given(first=nested, second=nested)
def test_union_counts_nothing_twice(first, second):
    size = max(len(first), len(second))
    first, second = (rows + [[]] * (size - len(rows)) for rows in (first, second))
    joined = union([make(first), make(second)], 31)
    assert read(joined) == [sorted({*a, *b}) for a, b in zip(first, second, strict=True)]


def test_distinct_takes_pairs_in_any_order():
    assert read(distinct(torch.tensor([2, 0, 2, 2]), torch.tensor([5, 1, 5, 3]), 3, 10)) == [[1], [], [3, 5]]


def test_thinning_keeps_equal_distances():
    lists = make([list(range(10)), [4, 5]])
    assert read(lists.take(torch.tensor([0, 1]), at_most=5)) == [[0, 2, 4, 6, 8], [4, 5]]
    assert read(lists.take(torch.tensor([0, 1]), at_most=5, phase=0.5)) == [[1, 3, 5, 7, 9], [4, 5]]
    assert read(lists.take(torch.tensor([0]), at_most=3, phase=0.9)) == [[2, 6, 9]]


def test_empty():
    empty = Lists.empty(3, torch.device("cpu"))
    assert read(empty) == [[], [], []]
    assert list(empty.tiles(4, 4)) == []
    assert read(union([empty, make([[1], [], [2]])], 9)) == [[1], [], [2]]
