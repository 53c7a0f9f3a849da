"""Similarities with a bank, and the logarithm of sums of their exponentials with its slope.

A log-sum-exp over rows that do not learn needs the similarities once: in the same pass over the rows one gets its value
and its slope d value / d v, and autograd has to remember (B, D) numbers instead of (B, rows). Everything is float32;
rows of a bank in bfloat16 are widened block by block.

Letters: B anchors, D size of v, K rows shared by all anchors, P rows of the pool, R kept ranks, X entries of lists,
T tiles, W entries of a tile, S slots (tiles per anchor).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.method.lists import Lists

NOTHING = -1e30
"""log 0, finite so that an empty sum gives slope 0 and not NaN."""

_TILE = 128
_TILE_NUMBERS = 1 << 23
_LOWEST = torch.iinfo(torch.int32).min


def rows_of(row_ND: Tensor, index_K: Tensor) -> Tensor:
    """Rows as float32; ``index_K`` ascends without repeats, so a float32 bank that is asked for whole is not copied."""
    if index_K.numel() == row_ND.shape[0]:
        return row_ND.float()
    return row_ND.index_select(0, index_K).float()


def pool_similarity(query_BD: Tensor, row_ND: Tensor, pool_P: Tensor, block: int = 8_192) -> Tensor:
    """s_bp = q_b . m_p for wide rows that are needed once, gathered block by block: (B, P)."""
    if pool_P.numel() == row_ND.shape[0] and row_ND.dtype == torch.float32:
        return query_BD @ row_ND.T
    return torch.cat([query_BD @ row_ND.index_select(0, part).float().T for part in torch.split(pool_P, block)], 1)


def list_similarity(query_BD: Tensor, row_ND: Tensor, lists: Lists) -> Tensor:
    """s_x = q_owner(x) . m_member(x) for every entry of the lists: (X,)."""
    parts = []
    for owner_T, _, entry_TW, valid_TW in lists.tiles(_TILE, max(1, _TILE_NUMBERS // (_TILE * row_ND.shape[1]))):
        row_TWD = _gather(row_ND, lists.members[entry_TW])
        parts.append(torch.bmm(row_TWD, query_BD[owner_T, :, None])[:, :, 0][valid_TW])
    return torch.cat(parts) if parts else query_BD.new_zeros(0)


def sort_key(similarity: Tensor, out: Tensor | None = None) -> Tensor:
    """Distinct int64 keys along the last axis: the more similar entry has the larger one; of equals, the smaller position.

    :param out: true where an entry does not take part; those come last.
    """
    bits = (similarity + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    if out is not None:
        ordered = ordered.masked_fill_(out, _LOWEST)
    last = similarity.shape[-1] - 1
    return (ordered.long() << 32) + torch.arange(last, -1, -1, device=similarity.device)


def most_similar(similarity_BP: Tensor, out_BP: Tensor, count: int, anchors: int = 64) -> tuple[Tensor, Tensor]:
    """Positions of the ``count`` most similar entries, most similar first; of equals the smaller position first.

    :param out_BP: true where an entry does not take part.
    :returns: positions (B, count), each once in a row, and a mask that is false where fewer entries take part.
    """
    keys = []
    for similarity, out in zip(torch.split(similarity_BP, anchors), torch.split(out_BP, anchors), strict=True):
        keys.append(sort_key(similarity, out).topk(count, dim=1).values)
    key = torch.cat(keys)
    return similarity_BP.shape[1] - 1 - (key & 0xFFFFFFFF), key >> 32 > _LOWEST


def log_sum_shared(
    v_BD: Tensor, own_B: Tensor, blocks: Iterable[tuple[Tensor, Tensor]], temperature: float, at_once: int = 1 << 22
) -> Tensor:
    """log sum_k e^{v.m_k/tau} over rows that all anchors share, without those of the anchor itself: (B,).

    :param own_B: the anchors' own indices.
    :param blocks: pairs of rows to take from, and the indices that they bear: (rows (K, D), index (K,)).
    :param at_once: similarities held at a time.
    """
    query_BD = v_BD.detach() / temperature
    log_B = query_BD.new_full((len(query_BD),), NOTHING)
    mean_BD = torch.zeros_like(query_BD)
    for row_KD, index_K in blocks:
        width = max(1, at_once // len(query_BD))
        for rows, index in zip(torch.split(row_KD, width), torch.split(index_K, width), strict=True):
            s_BK = query_BD @ rows.T
            mine = torch.isin(index, own_B).nonzero()[:, 0]
            s_BK[:, mine] = s_BK[:, mine].masked_fill_(index[mine] == own_B[:, None], NOTHING)
            top_B = s_BK.amax(1)
            e_BK = s_BK.sub_(top_B[:, None]).exp_()
            sum_B = e_BK.sum(1)
            part_B = top_B + sum_B.log()
            joint_B = torch.logaddexp(log_B, part_B)
            mean_BD *= (log_B - joint_B).exp()[:, None]
            mean_BD.addcmul_(e_BK @ rows, ((part_B - joint_B).exp() / sum_B)[:, None])
            log_B = joint_B
    return _sloped(v_BD, log_B, mean_BD / temperature)


def log_sum_lists(v_BD: Tensor, row_ND: Tensor, lists: Lists, temperature: float) -> tuple[Tensor, Tensor]:
    """log sum_{j in P(i)} e^{v_i.m_j/T} over each anchor's own list: (B,); and the similarities' sum, without slope."""
    query_BD = v_BD.detach()
    anchors, width = query_BD.shape
    slots = max(1, -(-lists.longest // _TILE))
    log_BS = query_BD.new_full((anchors, slots), NOTHING)
    mean_BSD = query_BD.new_zeros(anchors, slots, width)
    total = query_BD.new_zeros(())
    for owner_T, slot_T, entry_TW, valid_TW in lists.tiles(_TILE, max(1, _TILE_NUMBERS // (_TILE * width))):
        row_TWD = _gather(row_ND, lists.members[entry_TW])
        s_TW = torch.bmm(row_TWD, query_BD[owner_T, :, None])[:, :, 0]
        total += s_TW.masked_fill(~valid_TW, 0).sum()
        s_TW = (s_TW / temperature).masked_fill_(~valid_TW, NOTHING)
        log_T = s_TW.logsumexp(1)
        log_BS[owner_T, slot_T] = log_T
        mean_BSD[owner_T, slot_T] = torch.bmm((s_TW - log_T[:, None]).exp()[:, None, :], row_TWD)[:, 0]
    log_B = log_BS.logsumexp(1)
    share_BS = (log_BS - log_B[:, None]).exp()
    slope_BD = torch.bmm(share_BS[:, None, :], mean_BSD)[:, 0] / temperature
    return _sloped(v_BD, log_B, slope_BD), total


def log_sum_ranked(
    v_BD: Tensor, row_PD: Tensor, similarity_BP: Tensor, position_BR: Tensor, times_BR: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log sum_r n_r e^{v.m_r/T} over rows of the pool that count n_r times: (B,); and the mean similarity, no slope.

    :param similarity_BP: v . m for the whole pool.
    :param position_BR: places in the pool, each once per anchor.
    :param times_BR: float32, how often each counts; 0 leaves it out.
    """
    s_BR = similarity_BP.gather(1, position_BR)
    mean = (s_BR * times_BR).sum() / times_BR.sum().clamp_min(1)
    logit_BR = torch.where(times_BR > 0, s_BR / temperature + times_BR.log(), NOTHING)
    log_B = logit_BR.logsumexp(1)
    share_BP = torch.zeros_like(similarity_BP).scatter_(1, position_BR, (logit_BR - log_B[:, None]).exp())
    return _sloped(v_BD, log_B, share_BP @ row_PD / temperature), mean


def _gather(row_ND: Tensor, index_TW: Tensor) -> Tensor:
    return row_ND.index_select(0, index_TW.reshape(-1)).float().view(*index_TW.shape, row_ND.shape[1])


class _Sloped(torch.autograd.Function):
    """A value whose slope in v was found together with it."""

    @staticmethod
    def forward(ctx: Any, v_BD: Tensor, value_B: Tensor, slope_BD: Tensor) -> Tensor:
        ctx.save_for_backward(slope_BD)
        return value_B.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (slope_BD,) = ctx.saved_tensors
        return grads[0][:, None] * slope_BD, None, None


def _sloped(v_BD: Tensor, value_B: Tensor, slope_BD: Tensor) -> Tensor:
    result: Tensor = _Sloped.apply(v_BD, value_B, slope_BD)  # type: ignore[no-untyped-call]
    return result
