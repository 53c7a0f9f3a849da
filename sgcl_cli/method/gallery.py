"""Positives and negatives of a few anchors, for display: a pure function of the banks and the clusters.

The embedding of an anchor is its own row in the banks, so no encoder is needed; nothing is changed.

Letters: N patches, B anchors, M patches shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sgcl_cli.method import sets
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.method.streams import generator

_BLOCK = 65_536
_CANDIDATES = 32


@dataclass(frozen=True)
class Shown:
    """Patches of one kind.

    :ivar index: int64 (M,), on the CPU.
    :ivar similarity: float32 (M,), v . m with the anchor, on the CPU.
    :ivar total: how many there are, of which M are shown.
    """

    index: Tensor
    similarity: Tensor
    total: int


@dataclass(frozen=True)
class AnchorExamples:
    """The positives, the negatives and the nearest patches of an anchor.

    :ivar anchor: index of the patch.
    :ivar spatial: P_sp, most similar first.
    :ivar propagated: P_se, most similar first.
    :ivar negatives: members of Q, equally spaced over the drawn ranks, hardest first.
    :ivar nearest: the most similar rows of the bank, whether positive, negative or neither.
    """

    anchor: int
    spatial: Shown
    propagated: Shown
    negatives: Shown
    nearest: Shown


def anchors(objective: SGCL, slide_N: Tensor, count: int) -> list[int]:
    """Choose anchors to show, spread over the slides; of some random candidates the one with most neighbours.

    Determined by the objective's seed; ascending.
    """
    slide_N = slide_N.cpu()
    draw = generator(objective.seed, "gallery")
    present = torch.unique(slide_N)
    turn = present[torch.randperm(len(present), generator=draw)].tolist()
    chosen: set[int] = set()
    for place in range(min(count, len(slide_N))):
        own = (slide_N == turn[place % len(turn)]).nonzero()[:, 0]
        drawn = own[torch.randperm(len(own), generator=draw)[:_CANDIDATES]].tolist()
        fresh = [index for index in drawn if index not in chosen]
        if fresh:
            fresh_B = torch.tensor(fresh, device=objective.device)
            around = sets.sizes(objective.spatial(fresh_B), fresh_B).tolist()
            chosen.add(max(zip(around, fresh, strict=True), key=lambda pair: pair[0])[1])
    return sorted(chosen)


@torch.no_grad()
def gallery(objective: SGCL, index: list[int], *, step: int, most: int) -> list[AnchorExamples]:
    """The examples of each of the patches ``index``, at most ``most`` of a kind.

    :param step: determines which negatives are drawn.
    :raises AssertionError: the objective keeps no bank of v (MoCo without a spatial term).
    """
    assert objective.bank_v is not None, "without a bank of v there is nothing to compare with"
    index_B = torch.tensor(index, device=objective.device)
    v_BD = objective.bank_v.index_select(0, index_B).float()
    nearest = _nearest(objective.bank_v, v_BD, index_B, most)
    if not objective.settings.spatial:
        nothing = Shown(index_B[:0].cpu(), v_BD[:0, 0].cpu(), 0)
        return [AnchorExamples(i, nothing, nothing, nothing, near) for i, near in zip(index, nearest, strict=True)]
    h_BH = v_BD if objective.bank_h is None else objective.bank_h.index_select(0, index_B).float()
    draws = objective.sampler.at(step)
    chosen = objective.select(index_B, v_BD, h_BH, draws)
    ranked_BZ = chosen.pool[chosen.position[:, draws.quantile.argsort()]]
    return [
        AnchorExamples(
            patch,
            _shown(objective.bank_v, v_BD[b], sets.members(chosen.spatial, index_B, b), most),
            _shown(objective.bank_v, v_BD[b], sets.members(chosen.propagated, index_B, b), most),
            _spaced(objective.bank_v, v_BD[b], _distinct(ranked_BZ[b], chosen.drawn[b]), most),
            nearest[b],
        )
        for b, patch in enumerate(index)
    ]


def _distinct(ranked_Z: Tensor, drawn: Tensor) -> Tensor:
    """Negatives sorted by rank, each once; none if no candidates were left to draw from."""
    return torch.unique_consecutive(ranked_Z) if bool(drawn) else ranked_Z[:0]


def _shown(row_ND: Tensor, v_D: Tensor, member_X: Tensor, most: int) -> Shown:
    similarity_X = row_ND.index_select(0, member_X).float() @ v_D
    top = similarity_X.topk(min(most, len(member_X)))
    return Shown(member_X[top.indices].cpu(), top.values.cpu(), len(member_X))


def _spaced(row_ND: Tensor, v_D: Tensor, ranked_X: Tensor, most: int) -> Shown:
    """Equally spaced over the ranks, including the first and the last."""
    count = len(ranked_X)
    place = torch.linspace(0, max(0, count - 1), min(most, count), device=ranked_X.device).round().long()
    return Shown(ranked_X[place].cpu(), (row_ND[ranked_X[place]].float() @ v_D).cpu(), count)


def _nearest(row_ND: Tensor, v_BD: Tensor, index_B: Tensor, most: int) -> list[Shown]:
    """The most similar rows of the whole bank except the anchor's own, block by block."""
    n, found, values = len(row_ND), [], []
    for start in range(0, n, _BLOCK):
        block = row_ND[start : start + _BLOCK].float()
        similarity_BN = v_BD @ block.T
        place_B = index_B - start
        inside = (place_B >= 0) & (place_B < len(block))
        similarity_BN[inside.nonzero()[:, 0], place_B[inside]] = -torch.inf
        top = similarity_BN.topk(min(most, len(block)), dim=1)
        found.append(top.indices + start)
        values.append(top.values)
    value, place = torch.cat(values, 1).topk(min(most, n - 1), dim=1)
    where = torch.cat(found, 1).gather(1, place)
    return [Shown(where[b].cpu(), value[b].cpu(), n - 1) for b in range(len(index_B))]
