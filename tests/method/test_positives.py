from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method import sets
from sgcl_cli.method.positives import (
    Neighbourhood,
    Queries,
    near_by_threshold,
    near_exactly,
    queries,
    stored_bytes,
)
from tests.method.made import options


def full(side, slides=1):
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cell = torch.stack([column.reshape(-1), row.reshape(-1)], 1).double()
    return torch.arange(slides).repeat_interleave(side * side), cell.repeat(slides, 1)


def found(neighbourhood, index):
    table = neighbourhood.of(index)
    assert torch.equal(table, table.sort(dim=1).values)
    return [sets.members(table, index, row).tolist() for row in range(len(index))]


@pytest.mark.parametrize(
    ("radius", "count"), [(1.1, 4), (2.0, 8), (3.0, 24), (5.0, 68), (7.0, 144), (10.0, 304), (20.0, 1244)]
)
def test_counts_on_full_tissue(radius, count):
    side = 45
    slide, cell = full(side)
    middle = torch.tensor([side * (side // 2) + side // 2])
    (row,) = found(Neighbourhood(slide, cell, radius), middle)
    assert len(row) == len(set(row)) == count
    assert int(middle) not in row


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
    rows = found(Neighbourhood(slide, (cell + 1_000) * step, 3.0), inside)
    assert {len(row) for row in rows} == {count}


def test_isolated_patch_and_slide_borders():
    slide = torch.tensor([0, 0, 0, 1, 1])
    cell = torch.tensor([[0, 0], [1, 0], [50, 50], [0, 0], [0, 1]]).double()
    assert found(Neighbourhood(slide, cell, 3.0), torch.arange(5)) == [[1], [0], [], [4], [3]]


def test_one_row_of_a_slide_does_not_run_into_the_next():
    side = 6
    slide, cell = full(side, slides=2)
    index = torch.tensor([side - 1, side, side * side - 1, side * side])
    assert found(Neighbourhood(slide, cell, 1.1), index) == [
        [side - 2, 2 * side - 1],
        [0, side + 1, 2 * side],
        [side * side - 1 - side, side * side - 2],
        [side * side + 1, side * side + side],
    ]


def test_two_patches_at_one_place_are_no_neighbours():
    cell = torch.tensor([[2.0, 2.0], [2.0, 2.0], [3.0, 2.0]]).double()
    near = Neighbourhood(torch.zeros(3, dtype=torch.int64), cell, 3.0)
    assert found(near, torch.arange(3)) == [[2], [2], [0, 1]]


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
    rows = [set(row) for row in found(Neighbourhood(slide, cell, radius), torch.arange(n))]
    assert rows == [set(plain.spatial_neighbours(slide.tolist(), cell.tolist(), i, radius)) for i in range(n)]
    for i in range(n):
        assert all(i in rows[j] and slide[i] == slide[j] for j in rows[i])


@pytest.mark.parametrize("why", ["the radius", "the width"])
def test_stored_and_looked_up_sets_are_equal(monkeypatch, plain, why):
    slide, cell = plain.lattice(700, 3, 0.4, 0)
    index = torch.tensor([5, 5, 699, 0])
    stored = Neighbourhood(slide, cell, 5.0)
    limit = "_LARGEST_STORED_RADIUS" if why == "the radius" else "_WIDEST_STORED"
    monkeypatch.setattr(f"sgcl_cli.method.positives.{limit}", 1)
    looked_up = Neighbourhood(slide, cell, 5.0)
    assert [tensor.shape[1:] for tensor in stored.stored()] != [tensor.shape[1:] for tensor in looked_up.stored()]
    assert stored.of(index).dtype == looked_up.of(index).dtype == torch.int64
    assert found(stored, index) == found(looked_up, index)


def test_stored_members_are_int32_and_one_place_wider_than_the_largest_set():
    slide, cell = full(20)
    (table,) = Neighbourhood(slide, cell, 3.0).stored()
    assert table.dtype == torch.int32 and table.shape == (400, 25)
    assert [stored_bytes(radius) for radius in (1.1, 3.0, 7.0)] == [4 * 5, 4 * 25, 4 * 145]
    assert stored_bytes(8.0) == 36


def test_auxiliary_anchors_are_the_most_similar_neighbours():
    index = torch.tensor([7, 1, 0])
    spatial = torch.tensor([[3, 5, 7, 8, 9], [1, 1, 1, 1, 1], [0, 0, 0, 0, 2]])
    row = torch.zeros(10, 1)
    row[[3, 5, 8, 9, 2], 0] = torch.tensor([0.1, 0.7, 0.7, 0.2, -0.5])
    v = torch.tensor([[1.0], [-3.0], [1.0]])
    for count, wanted in ((0, [[], [], []]), (1, [[5], [], [2]]), (2, [[5, 8], [], [2]]), (9, [[5, 8, 9, 3], [], [2]])):
        query = queries(index, v, row, spatial, count)
        assert torch.equal(query.patch[:, 0], index) and torch.equal(query.row[:, 0], v)
        for b, i in enumerate(index.tolist()):
            patches = query.patch[b, 1:].tolist()
            assert [j for j in patches if j != i] == wanted[b]
            for place, j in enumerate(patches, 1):  # where there is no auxiliary anchor, the anchor asks again
                assert torch.equal(query.row[b, place], v[b] if j == i else row[j])


@pytest.mark.slow
def test_a_million_patches_in_seconds():
    slide, cell = full(100, slides=100)
    (row,) = found(Neighbourhood(slide, cell, 3.0), torch.tensor([50 * 100 + 50]))
    assert len(row) == 24


def test_a_lattice_whose_steps_round_is_still_exact():
    """Thirds of a patch far from the origin: in floating point some patches 9 steps apart are a little nearer than 3."""
    cell = torch.stack([(torch.arange(40) + 12_280).double() * (1 / 3), torch.zeros(40).double()], 1)
    apart = cell[9:, 0] - cell[:-9, 0]
    assert bool((apart < 3).any())
    rows = found(Neighbourhood(torch.zeros(40, dtype=torch.int64), cell, 3.0), torch.arange(8, 32))
    assert {len(row) for row in rows} == {16}


def test_threshold_finds_what_the_whole_bank_would(plain):
    """With the pool grown to the whole bank the two ways to near(u) meet (rows without ties)."""

    def fine_rows(*shape, seed):
        return torch.randint(-512, 513, shape, generator=torch.Generator().manual_seed(seed)).float() / 1_024

    for agreement in ("all", "any"):
        case = plain.case(options(neighbours=60, agreement=agreement), 500, rows=fine_rows, batch=16)
        objective, v, index = case.objective, case.v.detach(), case.index
        m, auxiliary = objective.bank_v, index.roll(1)
        query = Queries(torch.stack([index, auxiliary], 1), torch.stack([v, m[auxiliary]], 1))
        similarity = query.row @ m.T
        exact = near_exactly(query, index, similarity, objective.clusters, 60)
        fast = near_by_threshold(
            query, index, similarity, torch.arange(500), objective.clusters, k=60, row_ND=m, phase=torch.tensor([0.5])
        )
        assert int((exact != index[:, None, None]).sum()) > 50
        for b, i in enumerate(index.tolist()):
            for u in range(2):
                found = set(exact[b, u].tolist()) - {i}
                assert found == set(fast[b, u].tolist()) - {i}
                assert int(query.patch[b, u]) not in found


@pytest.mark.parametrize("agreement", ["all", "any"])
def test_near_never_exceeds_k_and_takes_the_most_similar(plain, agreement):
    case = plain.case(options(agreement=agreement), 500, batch=16)
    objective, v, index, k = case.objective, case.v.detach(), case.index, 10
    pool, query = torch.arange(0, 500, 4), Queries(index[:, None], v[:, None])
    similarity = (v @ objective.bank_v[pool].T)[:, None]

    def found(count):
        near = near_by_threshold(
            query, index, similarity, pool, objective.clusters, k=count, row_ND=objective.bank_v, phase=torch.zeros(1)
        )
        lists = [[j for j in row if j != i] for row, i in zip(near[:, 0].tolist(), index.tolist(), strict=True)]
        return [list(dict.fromkeys(row)) for row in lists]

    near, wide = found(k), found(500)
    assert max(map(len, near)) <= k < max(map(len, wide))
    for b in range(len(v)):
        ordered = sorted(wide[b], key=lambda j: -float(v[b] @ objective.bank_v[j]))
        assert sorted(near[b]) == sorted(ordered[: len(near[b])])
