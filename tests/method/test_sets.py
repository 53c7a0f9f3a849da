from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method import sets

OWN = 15
rows = st.lists(st.lists(st.integers(0, 30), max_size=9), min_size=1, max_size=6)


def table(nested):
    """Places without an entry bear the own index; there is at least one place."""
    width = max([1, *map(len, nested)])
    return torch.tensor([row + [OWN] * (width - len(row)) for row in nested])


def read(found):
    return [[j for j in row if j != OWN] for row in found.tolist()]


@effort(max_examples=80, deadline=None)
@given(nested=rows)
def test_repeated_entries_count_once(nested):
    index = torch.full((len(nested),), OWN)
    found = sets.distinct(table(nested), index)
    wanted = [sorted(set(row) - {OWN}) for row in nested]
    assert read(found) == wanted
    assert found.shape == table(nested).shape
    assert sets.sizes(found, index).tolist() == [len(row) for row in wanted]
    assert torch.equal(sets.taken(found, index), found != OWN)
    assert [sets.members(found, index, row).tolist() for row in range(len(nested))] == wanted


def test_empty_sets_have_one_place_and_no_entry():
    index = torch.tensor([4, 9])
    none = sets.empty(index)
    assert none.shape == (2, 1)
    assert sets.sizes(none, index).tolist() == [0, 0]
