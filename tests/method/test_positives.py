from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method.lists import Lists
from sgcl_cli.method.positives import Neighbourhood, auxiliary_anchors, stored_bytes


def full(side, slides=1):
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cell = torch.stack([column.reshape(-1), row.reshape(-1)], 1).double()
    return torch.arange(slides).repeat_interleave(side * side), cell.repeat(slides, 1)


def of(lists, row):
    return lists.members[lists.offsets[row] : lists.offsets[row + 1]].tolist()


@pytest.mark.parametrize(
    ("radius", "count"), [(1.1, 4), (2.0, 8), (3.0, 24), (5.0, 68), (7.0, 144), (10.0, 304), (20.0, 1244)]
)
def test_counts_on_full_tissue(radius, count):
    side = 45
    slide, cell = full(side)
    middle = torch.tensor([side * (side // 2) + side // 2])
    lists = Neighbourhood(slide, cell, radius).lists(middle)
    assert lists.lengths.tolist() == [count]
    assert of(lists, 0) == sorted(of(lists, 0))
    assert int(middle) not in of(lists, 0)


@pytest.mark.parametrize(
    ("step", "count"), [(0.5, 108), (0.25, 436), (230 / 256, 36), (1 / 3, 248), (2 / 3, 68), (1.5, 8), (3.0, 0)]
)
def test_radius_is_in_patch_widths_whatever_the_stride(step, count):
    """Counts of 0 < dx^2 + dy^2 < (3 / step)^2 in whole steps; R = 3 itself is a lattice distance for most of these."""
    wanted = sum(0 < dx * dx + dy * dy < round((3 / step) ** 2, 9) for dx in range(-13, 14) for dy in range(-13, 14))
    assert wanted == count
    side = 45
    slide, cell = full(side)
    inside = ((cell >= 13) & (cell < side - 13)).all(1).nonzero()[:, 0]
    lists = Neighbourhood(slide, (cell + 1_000) * step, 3.0).lists(inside)
    assert lists.lengths.unique().tolist() == [count]


def test_isolated_patch_and_slide_borders():
    slide = torch.tensor([0, 0, 0, 1, 1])
    cell = torch.tensor([[0, 0], [1, 0], [50, 50], [0, 0], [0, 1]]).double()
    lists = Neighbourhood(slide, cell, 3.0).lists(torch.arange(5))
    assert [of(lists, i) for i in range(5)] == [[1], [0], [], [4], [3]]


def test_one_row_of_a_slide_does_not_run_into_the_next():
    side = 6
    slide, cell = full(side, slides=2)
    lists = Neighbourhood(slide, cell, 1.1).lists(torch.tensor([side - 1, side, side * side - 1, side * side]))
    assert of(lists, 0) == [side - 2, 2 * side - 1]
    assert of(lists, 1) == [0, side + 1, 2 * side]
    assert of(lists, 2) == [side * side - 1 - side, side * side - 2]
    assert of(lists, 3) == [side * side + 1, side * side + side]


def test_two_patches_at_one_place_are_no_neighbours():
    cell = torch.tensor([[2.0, 2.0], [2.0, 2.0], [3.0, 2.0]]).double()
    lists = Neighbourhood(torch.zeros(3, dtype=torch.int64), cell, 3.0).lists(torch.arange(3))
    assert [of(lists, i) for i in range(3)] == [[2], [2], [0, 1]]


@effort(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    slides=st.integers(1, 4),
    extent=st.sampled_from([2.0, 9.0, 40.0]),
    radius=st.sampled_from([0.7, 1.1, 3.0, 6.5, 8.0]),
    whole=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_places_give_what_every_pair_gives(plain, n, slides, extent, radius, whole, seed):
    draw = torch.Generator().manual_seed(seed)
    slide = torch.randint(slides, (n,), generator=draw) * 5 - 3
    cell = (torch.rand(n, 2, generator=draw, dtype=torch.float64) - 0.5) * extent
    cell = cell.round() if whole else cell
    lists = Neighbourhood(slide, cell, radius).lists(torch.arange(n))
    found = [set(of(lists, i)) for i in range(n)]
    assert found == [set(plain.spatial_neighbours(slide.tolist(), cell.tolist(), i, radius)) for i in range(n)]
    for i in range(n):
        assert all(i in found[j] and slide[i] == slide[j] for j in found[i])


def test_stored_and_looked_up_lists_are_equal(monkeypatch, plain):
    slide, cell = plain.lattice(700, 3, 0.4, 0)
    index = torch.tensor([5, 5, 699, 0])
    stored = Neighbourhood(slide, cell, 5.0).lists(index)
    monkeypatch.setattr("sgcl_cli.method.positives._LARGEST_STORED_RADIUS", 1.0)
    looked_up = Neighbourhood(slide, cell, 5.0).lists(index)
    assert stored.members.dtype == looked_up.members.dtype == torch.int64
    assert torch.equal(stored.offsets, looked_up.offsets)
    assert torch.equal(stored.members, looked_up.members)


def test_stored_members_are_int32():
    slide, cell = full(20)
    assert Neighbourhood(slide, cell, 3.0)._stored.members.dtype == torch.int32
    assert stored_bytes(3.0) > stored_bytes(8.0)


def test_auxiliary_anchors_are_the_most_similar_neighbours():
    spatial = Lists(torch.tensor([0, 4, 4, 5]), torch.tensor([3, 5, 8, 9, 2]))
    similarity = torch.tensor([0.1, 0.7, 0.7, 0.2, -0.5])
    for count, wanted in ((0, [[], [], []]), (1, [[5], [], [2]]), (2, [[5, 8], [], [2]]), (9, [[5, 8, 9, 3], [], [2]])):
        lists = auxiliary_anchors(similarity, spatial, count)
        assert [of(lists, b) for b in range(3)] == wanted


@pytest.mark.slow
def test_a_million_patches_in_seconds():
    slide, cell = full(100, slides=100)
    lists = Neighbourhood(slide, cell, 3.0).lists(torch.tensor([50 * 100 + 50]))
    assert lists.lengths.tolist() == [24]


def test_a_lattice_whose_steps_round_is_still_exact():
    """Thirds of a patch far from the origin: in floating point some patches 9 steps apart are a little nearer than 3."""
    cell = torch.stack([(torch.arange(40) + 12_280).double() * (1 / 3), torch.zeros(40).double()], 1)
    apart = cell[9:, 0] - cell[:-9, 0]
    assert bool((apart < 3).any())
    lists = Neighbourhood(torch.zeros(40, dtype=torch.int64), cell, 3.0).lists(torch.arange(8, 32))
    assert lists.lengths.unique().tolist() == [16]
