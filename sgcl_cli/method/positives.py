"""Which patches should agree with an anchor: neighbours on its slide, and look-alikes reached through clusters.

Letters: N patches, B anchors, A auxiliary anchors per anchor, U = anchors and auxiliary anchors that look for
look-alikes, P rows of the pool, C clusterings, k nearest, X entries of lists, G rows of the hash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sgcl_cli.method.clusters import Clusters
from sgcl_cli.method.lists import Lists, distinct, union
from sgcl_cli.method.similarity import NOTHING, list_similarity, most_similar, sort_key

_LARGEST_STORED_RADIUS = 7.0
_CANDIDATES = 1 << 21
_EQUAL = 1e-9


class Neighbourhood:
    """P_sp(i) = { j : s_j = s_i, 0 < |c_j - c_i| < R }.

    Patches are hashed into squares of one patch width per slide and sorted by (slide, row, column) of their square, so
    what can lie within R of a patch is one run of that order for each of 2 ceil(R) + 1 rows. Lattices and free
    coordinates are served alike. The comparison with R is exact for every lattice whose step is a ratio of small
    whole numbers: distances that differ from R by less than one part in 10^9 count as R.

    Up to R = 7 the lists of all patches are stored (int32); beyond, they are looked up when asked for.

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
        self._stored = self._build() if radius <= _LARGEST_STORED_RADIUS else None

    def lists(self, index_B: Tensor) -> Lists:
        """P_sp of each of the patches ``index_B``, members ascending."""
        return self._stored.take(index_B) if self._stored is not None else self._look_up(index_B)

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

    def _look_up(self, index_B: Tensor) -> Lists:
        row_G = torch.arange(-self._reach, self._reach + 1, device=index_B.device) * self._columns
        centre_BG = self._key_N[index_B][:, None] + row_G
        first_BG = torch.searchsorted(self._sorted_N, centre_BG - self._reach)
        length_BG = torch.searchsorted(self._sorted_N, centre_BG + self._reach, right=True) - first_BG
        offsets = first_BG.new_zeros(first_BG.numel() + 1)
        torch.cumsum(length_BG.view(-1), 0, out=offsets[1:])
        run = Lists(offsets, offsets.new_empty(int(offsets[-1])))
        owner_X = run.owner // row_G.numel()
        member_X = self._order_N[first_BG.view(-1)[run.owner] + run.place].long()
        apart_X2 = self._cell_N2[member_X] - self._cell_N2[index_B[owner_X]]
        square_X = apart_X2.square_().sum(1)
        near_X = (square_X > 0) & (square_X < self._radius**2 * (1 - _EQUAL))
        owner_X, member_X = owner_X[near_X], member_X[near_X]
        key_X = owner_X * self._order_N.numel() + member_X
        if bool((key_X[1:] < key_X[:-1]).any()):
            member_X = member_X[key_X.argsort()]
        return Lists.of(owner_X, member_X, index_B.numel())

    def _build(self) -> Lists:
        at_once = max(1, _CANDIDATES // (2 * self._reach + 1) ** 2)
        length, members = [], []
        for index in torch.split(torch.arange(self._order_N.numel(), device=self._order_N.device), at_once):
            part = self._look_up(index)
            length.append(part.lengths)
            members.append(part.members.to(torch.int32))
        offsets = torch.zeros(self._order_N.numel() + 1, dtype=torch.int64, device=self._order_N.device)
        torch.cumsum(torch.cat(length), 0, out=offsets[1:])
        return Lists(offsets, torch.cat(members))


def stored_bytes(radius: float) -> float:
    """Bytes per patch of a :class:`Neighbourhood` on full tissue: the hash, and up to R = 7 the list."""
    hashed = 2 * 8 + 8 + 8 + 4
    return hashed + (8 + 4 * math.pi * radius**2 if radius <= _LARGEST_STORED_RADIUS else 0)


class Seekers(NamedTuple):
    """Who looks for look-alikes: every anchor, and each of its auxiliary anchors.

    patch (U,): theirs.    query (U, D): the rows that they are compared by.    anchor (U,): place of their anchor in
    the batch.
    """

    patch: Tensor
    query: Tensor
    anchor: Tensor


def auxiliary_anchors(similarity_X: Tensor, spatial: Lists, count: int) -> Lists:
    """A(i) = the a most similar members of P_sp(i) by v_i . m_j; of equals the smaller index.

    :param similarity_X: v_i . m_j for every entry of ``spatial``.
    :param count: a; an anchor with fewer neighbours has as many auxiliary anchors as neighbours.
    """
    if count == 0 or spatial.members.numel() == 0:
        return Lists.empty(len(spatial), spatial.offsets.device)
    table = spatial.padded(similarity_X, NOTHING)
    outside = torch.arange(spatial.longest, device=table.device) >= spatial.lengths[:, None]
    place_BA, found_BA = most_similar(table, outside, min(count, spatial.longest))
    member_BA = spatial.members[(spatial.offsets[:-1, None] + place_BA).masked_fill_(~found_BA, 0)]
    owner_BA = torch.arange(len(spatial), device=table.device)[:, None].expand_as(member_BA)
    return Lists.of(owner_BA[found_BA], member_BA[found_BA], len(spatial))


def seekers(index_B: Tensor, v_BD: Tensor, row_ND: Tensor, auxiliary: Lists) -> Seekers:
    """{i} + A(i): the anchor by its fresh v_i, an auxiliary anchor by its bank row."""
    return Seekers(
        torch.cat([index_B, auxiliary.members]),
        torch.cat([v_BD, row_ND.index_select(0, auxiliary.members).float()]),
        torch.cat([torch.arange(len(v_BD), device=index_B.device), auxiliary.owner]),
    )


@dataclass(frozen=True)
class Sight:
    """What the seekers see of the bank: their similarities with the pool, and what they must not find.

    pool (P,): ascending indices.    similarity (U, P): query . m.
    """

    pool: Tensor
    similarity: Tensor

    def without(self, index_U: Tensor, own_U: Tensor) -> Tensor:
        """(U, P) true at the seeker itself and at its anchor, which are in no near(u)."""
        return (self.pool == index_U[:, None]) | (self.pool == own_U[:, None])


def near_exactly(seeker: Seekers, own_U: Tensor, sight: Sight, clusters: Clusters, k: int) -> Lists:
    """near(u) = the k nearest of u that the clusterings put into u's cluster; the pool is the whole bank.

    :param own_U: the anchor's patch, for each seeker; neither it nor u is a candidate.
    """
    out_UP = sight.without(seeker.patch, own_U)
    near_Uk, found_Uk = most_similar(sight.similarity, out_UP, min(k, sight.pool.numel()))
    found_Uk &= clusters.agree(seeker.patch[:, None], near_Uk)
    owner_Uk = torch.arange(len(near_Uk), device=near_Uk.device)[:, None].expand_as(near_Uk)
    return Lists.of(owner_Uk[found_Uk], near_Uk[found_Uk], len(near_Uk))


def near_by_threshold(
    seeker: Seekers, own_U: Tensor, sight: Sight, clusters: Clusters, k: int, row_ND: Tensor, phase: float
) -> Lists:
    """near(u) from the members of u's clusters at or above the ceil(k P / N)-th largest similarity over the pool.

    Never more than k, the most similar. A cluster list longer than the pool is thinned to the pool's size, which bounds
    the cost of a step.

    :param own_U: the anchor's patch, for each seeker; neither it nor u is a candidate.
    :param phase: in [0, 1), where the thinning starts.
    """
    n, size = row_ND.shape[0], sight.pool.numel()
    seen_UP = sight.similarity.masked_fill(sight.without(seeker.patch, own_U), NOTHING)
    threshold_U = seen_UP.topk(min(size, math.ceil(k * size / n)), dim=1).values[:, -1]
    found = [lists.take(group_N[seeker.patch], size, phase) for group_N, lists in clusters.inverted]
    candidate = found[0] if len(found) == 1 else union(found, n)
    owner_X, member_X = candidate.owner, candidate.members
    candidate = candidate.keep((member_X != seeker.patch[owner_X]) & (member_X != own_U[owner_X]))
    similarity_X = list_similarity(seeker.query, row_ND, candidate)
    keep_X = similarity_X >= threshold_U[candidate.owner]
    return _at_most(candidate.keep(keep_X), similarity_X[keep_X], k)


def _at_most(lists: Lists, similarity_X: Tensor, k: int) -> Lists:
    if lists.longest <= k:
        return lists
    order_X = sort_key(similarity_X).argsort(descending=True)
    order_X = order_X[lists.owner[order_X].argsort(stable=True)]
    keep_X = torch.zeros_like(order_X, dtype=torch.bool)
    keep_X[order_X] = lists.place < k
    return lists.keep(keep_X)


def by_anchor(near: Lists, seeker: Seekers, anchors: int, n: int) -> Lists:
    """P_se(i) = union of near(u) over u in {i} + A(i)."""
    return distinct(seeker.anchor[near.owner], near.members, anchors, n)
