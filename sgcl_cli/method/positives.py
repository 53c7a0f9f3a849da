"""The positives of an anchor: neighbours on its slide, and look-alikes found through clusters.

A set is a row of a table as in ``sets``: the anchor's own index marks an unused place.

Letters: N patches, B anchors, A = 1 + a: an anchor and its auxiliary anchors, P rows of the pool, C clusterings, k nearest,
X places of a table, W members of a cluster considered, G rows of the hash, L patches of a row of the hash within reach.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sgcl_cli.method import sets
from sgcl_cli.method.clusters import Clusters
from sgcl_cli.method.similarity import most_similar, rows_of, set_similarity

_LARGEST_STORED_RADIUS = 7.0
_WIDEST_STORED = 1_024
_CANDIDATES = 1 << 21
_EQUAL = 1e-9


class Neighbourhood:
    """P_sp(i) = { j : s_j = s_i, 0 < |c_j - c_i| < R }.

    Patches are hashed into squares of one patch width and sorted by (slide, row, column) of their square. The candidates
    within R of a patch are then one contiguous run for each of 2 ceil(R) + 1 rows, on lattices and for arbitrary coordinates.
    The comparison with R is exact on every lattice whose step is a ratio of small integers: distances that differ from R by
    less than one part in 10^9 count as R.

    Up to R = 7 the neighbours of all patches are stored, as an int32 table one column wider than the largest set (up to 1,024);
    for larger R they are computed on demand.

    :param slide_N: int64, the slide of each patch.
    :param cell_N2: float64 (x, y) in patch widths, finite.
    :param radius: R in patch widths.
    """

    def __init__(self, slide_N: Tensor, cell_N2: Tensor, radius: float) -> None:
        assert bool(torch.isfinite(cell_N2).all()), "cells must be finite"
        self._radius = radius
        self._cell_N2 = cell_N2.double()
        self._key_N = self._hash(slide_N)
        self._sorted_N, order_N = torch.sort(self._key_N, stable=True)
        self._order_N = order_N.to(torch.int32)
        self._row_G = torch.arange(-self._reach, self._reach + 1, device=slide_N.device) * self._columns
        self._run_L = torch.arange(self._longest_run(), device=slide_N.device)
        self._stored_NX = self._store() if radius <= _LARGEST_STORED_RADIUS else None
        if self._stored_NX is not None:
            del self._cell_N2, self._key_N, self._sorted_N, self._order_N

    def of(self, index_B: Tensor) -> Tensor:
        """P_sp of each of the patches ``index_B``, ascending: int64 (B, X), X the same for all batches."""
        if self._stored_NX is not None:
            return self._stored_NX.index_select(0, index_B).long()
        return self._look_up(index_B)

    def stored(self) -> list[Tensor]:
        """The tensors kept in memory."""
        if self._stored_NX is not None:
            return [self._stored_NX]
        return [self._cell_N2, self._key_N, self._sorted_N, self._order_N]

    def _hash(self, slide_N: Tensor) -> Tensor:
        _, slide_N = torch.unique(slide_N, return_inverse=True)
        square_N2 = self._cell_N2.floor().long()
        slides = int(slide_N.max()) + 1
        lowest = square_N2.new_zeros(slides, 2).scatter_reduce_(
            0, slide_N[:, None].expand(-1, 2), square_N2, "amin", include_self=False
        )
        square_N2 = square_N2 - lowest[slide_N]
        self._reach = math.ceil(self._radius)
        columns, rows = (int(extent) + 1 + 2 * self._reach for extent in square_N2.amax(0))
        assert slides * rows * columns < 2**62, "cells lie too far apart"
        self._columns = columns
        return (slide_N * rows + square_N2[:, 1] + self._reach) * columns + square_N2[:, 0] + self._reach

    def _runs(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end of the candidates in the sorted order, for each row of the hash: (B, G) each."""
        centre_BG = self._key_N[index_B][:, None] + self._row_G
        first_BG = torch.searchsorted(self._sorted_N, centre_BG - self._reach)
        return first_BG, torch.searchsorted(self._sorted_N, centre_BG + self._reach, right=True)

    def _longest_run(self) -> int:
        longest = 1
        for index in torch.split(torch.arange(len(self._order_N), device=self._order_N.device), _CANDIDATES // 8):
            first_BG, end_BG = self._runs(index)
            longest = max(longest, int((end_BG - first_BG).max()))
        return longest

    def _look_up(self, index_B: Tensor) -> Tensor:
        first_BG, end_BG = self._runs(index_B)
        place_BGL = first_BG[:, :, None] + self._run_L
        inside_BGL = place_BGL < end_BG[:, :, None]
        member_BX = self._order_N[place_BGL.clamp_max_(len(self._order_N) - 1)].long().flatten(1)
        apart_BX2 = self._cell_N2[member_BX] - self._cell_N2[index_B][:, None]
        square_BX = apart_BX2.square_().sum(2)
        near_BX = (square_BX > 0) & (square_BX < self._radius**2 * (1 - _EQUAL)) & inside_BGL.flatten(1)
        return torch.where(near_BX, member_BX, index_B[:, None]).sort(dim=1).values

    def _store(self) -> Tensor | None:
        """The table of all patches; None if it is too wide to be stored."""
        n, device = len(self._order_N), self._order_N.device
        at_once = max(1, _CANDIDATES // (len(self._row_G) * len(self._run_L)))
        tables, widest = [], 1
        for index in torch.split(torch.arange(n, device=device), at_once):
            table = self._look_up(index)
            width = 1 + int(sets.sizes(table, index).max())
            widest = max(widest, width)
            if widest > _WIDEST_STORED:
                return None
            entries_first = torch.where(sets.taken(table, index), table, n).sort(dim=1).values[:, :width]
            tables.append(torch.where(entries_first < n, entries_first, index[:, None]).to(torch.int32))
        stored_NX = torch.arange(n, dtype=torch.int32, device=device)[:, None].repeat(1, widest)
        for rows, table in zip(torch.split(stored_NX, at_once), tables, strict=True):
            rows[:, : table.shape[1]] = table
        return stored_NX.sort(dim=1).values


def stored_bytes(radius: float) -> float:
    """Bytes per patch of a :class:`Neighbourhood` on full tissue: the table up to R = 7, beyond it the hash."""
    if radius > _LARGEST_STORED_RADIUS:
        return 2 * 8 + 8 + 8 + 4
    reach = math.ceil(radius)
    steps = range(-reach, reach + 1)
    return 4 * (1 + sum(0 < x * x + y * y < radius**2 * (1 - _EQUAL) for x in steps for y in steps))


class Queries(NamedTuple):
    """{i} + A(i), the patches whose look-alikes are searched for.

    :ivar patch: (B, A); an anchor with fewer than a neighbours is repeated in their places.
    :ivar row: (B, A, D), v_i of the anchor, and the bank rows of the auxiliary anchors.
    """

    patch: Tensor
    row: Tensor


def queries(index_B: Tensor, v_BD: Tensor, row_ND: Tensor, spatial_BX: Tensor, count: int) -> Queries:
    """{i} + A(i), with A(i) the a most similar members of P_sp(i) by v_i . m_j; ties go to the smaller index.

    :param spatial_BX: P_sp, ascending.
    :param count: a.
    """
    count = min(count, spatial_BX.shape[1])
    if count == 0:
        return Queries(index_B[:, None], v_BD[:, None])
    similarity_BX = set_similarity(v_BD, row_ND, spatial_BX)
    similarity_BX = similarity_BX.masked_fill_(spatial_BX == index_B[:, None], -torch.inf)
    place_BA = most_similar(similarity_BX, count)
    patch_BA = spatial_BX.gather(1, place_BA)
    own_BA1 = (patch_BA == index_B[:, None])[:, :, None]
    row_BAD = torch.where(own_BA1, v_BD[:, None], rows_of(row_ND, patch_BA))
    return Queries(torch.cat([index_B[:, None], patch_BA], 1), torch.cat([v_BD[:, None], row_BAD], 1))


def near_exactly(query: Queries, index_B: Tensor, similarity_BAP: Tensor, clusters: Clusters, k: int) -> Tensor:
    """near(u) = those of the k nearest of u that are in its cluster; the pool is the whole bank.

    Neither u nor the anchor is a candidate.

    :param similarity_BAP: query . m for every patch.
    :returns: (B, A, X).
    """
    size = similarity_BAP.shape[2]
    near_BAX = most_similar(similarity_BAP, min(size, k + 2))
    patch_BA1, index_B11 = query.patch[:, :, None], index_B[:, None, None]
    other_BAX = (near_BAX != patch_BA1) & (near_BAX != index_B11)
    nearest_BAX = other_BAX.cumsum(2) <= k
    agree_BAX = clusters.agree(patch_BA1, near_BAX)
    return torch.where(other_BAX & nearest_BAX & agree_BAX, near_BAX, index_B11)


def near_by_threshold(
    query: Queries,
    index_B: Tensor,
    similarity_BAP: Tensor,
    pool_P: Tensor,
    clusters: Clusters,
    *,
    k: int,
    row_ND: Tensor,
    phase: Tensor,
) -> Tensor:
    """near(u) from the members of u's clusters at or above the ceil(k P / N)-th largest similarity over the pool.

    At most k, the most similar. A cluster with more members than the pool is thinned to the size of the pool, which
    bounds the cost of a step. Neither u nor the anchor is a candidate.

    :param similarity_BAP: query . m for the pool.
    :param phase: (1,) in [0, 1), the offset at which the thinning starts.
    :returns: (B, A, X).
    """
    n, size = row_ND.shape[0], len(pool_P)
    rank = min(size, math.ceil(k * size / n))
    patch_BA1, index_B11 = query.patch[:, :, None], index_B[:, None, None]
    best = similarity_BAP.topk(min(size, rank + 2), dim=2)
    best_BAX = pool_P[best.indices]
    out_BAX = (best_BAX == patch_BA1) | (best_BAX == index_B11)
    threshold_BA1 = best.values.masked_fill(out_BAX, -torch.inf).topk(rank, dim=2).values[:, :, -1:]
    found = [
        _most_similar_members(
            query, group.members(query.patch, size, phase), threshold_BA1, index_B11, k=k, row_ND=row_ND
        )
        for group in clusters.groups
    ]
    return found[0] if len(found) == 1 else _at_most(torch.cat(found, 2), query, index_B, k, row_ND)


def _most_similar_members(
    query: Queries, member_BAW: Tensor, threshold_BA1: Tensor, index_B11: Tensor, *, k: int, row_ND: Tensor
) -> Tensor:
    """The members of a cluster at or above the threshold, at most k; the others are replaced by the anchor's own index."""
    similarity_BAW = _of_each(query, row_ND, member_BAW)
    keep_BAW = (similarity_BAW >= threshold_BA1) & (member_BAW != query.patch[:, :, None])
    kept_BAW = torch.where(keep_BAW, member_BAW, index_B11)
    if kept_BAW.shape[2] <= k:
        return kept_BAW
    return _best(kept_BAW, similarity_BAW, index_B11, k)


def _at_most(kept_BAX: Tensor, query: Queries, index_B: Tensor, k: int, row_ND: Tensor) -> Tensor:
    """The union over clusterings, at most k, the most similar."""
    owner_U = index_B[:, None].expand_as(query.patch).flatten()
    kept_BAX = sets.distinct(kept_BAX.flatten(0, 1), owner_U).view_as(kept_BAX)
    return _best(kept_BAX, _of_each(query, row_ND, kept_BAX), index_B[:, None, None], min(k, kept_BAX.shape[2]))


def _best(kept_BAX: Tensor, similarity_BAX: Tensor, index_B11: Tensor, k: int) -> Tensor:
    """The k most similar of the entries, each once; equal entries are adjacent."""
    out_BAX = sets.repeats(kept_BAX) | (kept_BAX == index_B11)
    place_BAk = similarity_BAX.masked_fill(out_BAX, -torch.inf).topk(k, dim=2).indices
    return torch.where(out_BAX, index_B11, kept_BAX).gather(2, place_BAk)


def _of_each(query: Queries, row_ND: Tensor, member_BAX: Tensor) -> Tensor:
    similarity_UX = set_similarity(query.row.flatten(0, 1), row_ND, member_BAX.flatten(0, 1))
    return similarity_UX.view(member_BAX.shape)
