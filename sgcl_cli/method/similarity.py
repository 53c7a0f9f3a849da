"""Similarities with a bank, and the logarithm of sums of their exponentials with its slope.

Bank rows have no gradient, so the gradient of a log-sum-exp with respect to v (its slope) is the mean of the rows, weighted by
the exponentials, and is computed together with the value. Autograd records nothing here; ``with_slopes`` attaches the slopes at
the end. All arithmetic is float32; rows of a bfloat16 bank are converted when they are gathered. The host knows all shapes.

Letters: B anchors, D size of v, K rows shared by all anchors, P rows of the pool, Z drawn positions in it, X places of a table of
sets, Y leading dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOTHING = -1e30
"""log 0, finite so that an empty sum gives slope 0 and not NaN."""

_SIMILARITIES_AT_ONCE = {"cpu": 1 << 22}  # fits into a CPU's caches
_MOST_SIMILARITIES_AT_ONCE = 1 << 28
_GATHERED_AT_ONCE = 1 << 27


def rows_of(row_ND: Tensor, index: Tensor) -> Tensor:
    """Rows as float32: the shape of ``index`` with D appended."""
    return row_ND.index_select(0, index.reshape(-1)).float().view(*index.shape, row_ND.shape[1])


def set_similarity(query_BD: Tensor, row_ND: Tensor, member_BX: Tensor) -> Tensor:
    """s_bx = q_b . m_x for every place of a table of sets: (B, X)."""
    at_once = max(1, _GATHERED_AT_ONCE // (member_BX.shape[1] * row_ND.shape[1]))
    parts = [
        torch.bmm(rows_of(row_ND, member), query[:, :, None])[:, :, 0]
        for query, member in zip(torch.split(query_BD, at_once), torch.split(member_BX, at_once), strict=True)
    ]
    return _joined(parts)


def most_similar(similarity_BP: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` most similar entries, most similar first, ties by position: (B, count).

    On a CPU :func:`most_similar_by_keys` is faster; other devices use the single operation of :func:`most_similar_by_sort`.
    """
    by_device = most_similar_by_keys if similarity_BP.device.type == "cpu" else most_similar_by_sort
    return by_device(similarity_BP, count)


def most_similar_by_sort(similarity_BP: Tensor, count: int) -> Tensor:
    """``most_similar`` by a stable sort of all entries."""
    return similarity_BP.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def most_similar_by_keys(similarity_BP: Tensor, count: int) -> Tensor:
    """``most_similar`` by the largest of distinct integer keys: the ordered bits of the float32, then the position."""
    bits = (similarity_BP + 0.0).view(torch.int32)
    ordered = bits ^ (bits >> 31).bitwise_and_(0x7FFFFFFF)
    place = torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device)
    return torch.add(place, ordered, alpha=1 << 32).topk(count, dim=-1).indices


def log_sum_shared(query_YBD: Tensor, own_B: Tensor, row_KD: Tensor, index_K: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_k e^{q.m_k} over rows that all anchors share, except those of the anchor itself: (Y, B).

    :param query_YBD: v / tau.
    :param own_B: the anchors' patches.
    :param row_KD: float32.
    :param index_K: the patches of these rows.
    :returns: the value and its slope in q: (Y, B) and (Y, B, D).
    """
    out_BK = index_K == own_B[:, None]
    logs, slopes = [], []
    numbers = query_YBD[..., 0].numel() * len(row_KD)
    most = _SIMILARITIES_AT_ONCE.get(query_YBD.device.type, _MOST_SIMILARITIES_AT_ONCE)
    at_once = max(1, most * len(own_B) // numbers)
    for query, out in zip(torch.split(query_YBD, at_once, -2), torch.split(out_BK, at_once), strict=True):
        s_YBK = (query @ row_KD.T).masked_fill_(out, NOTHING)
        logs.append(s_YBK.logsumexp(-1))
        slopes.append(s_YBK.softmax(-1) @ row_KD)
    return _joined(logs, -1), _joined(slopes, -2)


def log_sum_sets(
    v_BD: Tensor, row_ND: Tensor, member_BX: Tensor, index_B: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log sum_{j in P(i)} e^{v_i.m_j/T} over each anchor's own set: (B,).

    :param member_BX: tables as in ``sets``.
    :returns: the value; its slope in v / T, (B, D); and v . m / T, (B, X), NOTHING in unused places.
    """
    logs, slopes, logits = [], [], []
    at_once = max(1, _GATHERED_AT_ONCE // (member_BX.shape[1] * row_ND.shape[1]))
    parts = (torch.split(part, at_once) for part in (v_BD, member_BX, index_B))
    for v, member, index in zip(*parts, strict=True):
        row_BXD = rows_of(row_ND, member)
        s_BX = torch.bmm(row_BXD, v[:, :, None])[:, :, 0].div_(temperature)
        logits.append(s_BX.masked_fill_(member == index[:, None], NOTHING))
        logs.append(s_BX.logsumexp(1))
        slopes.append(torch.bmm(s_BX.softmax(1)[:, None, :], row_BXD)[:, 0])
    return _joined(logs), _joined(slopes), _joined(logits)


def log_sum_drawn(similarity_BP: Tensor, row_PD: Tensor, position_BZ: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """log sum_z e^{v.m_z/T} over draws from the pool, which may repeat: (B,).

    :param similarity_BP: v . m for the whole pool.
    :param position_BZ: positions in the pool.
    :returns: the value; its slope in v / T, (B, D); and v . m / T of each draw, (B, Z).
    """
    s_BZ = similarity_BP.gather(1, position_BZ).div_(temperature)
    # equal numbers are added at each position, possibly hundreds, so the order of the additions does not change the sum
    share_BP = torch.zeros(similarity_BP.shape, dtype=torch.float64, device=s_BZ.device)
    share_BP = share_BP.scatter_add_(1, position_BZ, s_BZ.softmax(1, dtype=torch.float64))
    return s_BZ.logsumexp(1), share_BP.float() @ row_PD, s_BZ


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class _Sloped(torch.autograd.Function):
    """A value whose slopes were computed together with it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *pairs: Tensor) -> Tensor:
        ctx.save_for_backward(*pairs[1::2])
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        slopes: tuple[Tensor | None, ...] = (None,)
        for slope in ctx.saved_tensors:
            slopes += (grads[0] * slope, None)
        return slopes


def with_slopes(value: Tensor, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The value with its gradient attached.

    :param pairs: the tensors that it depends on, each with d value / d tensor, of the same shape.
    """
    with torch.enable_grad():
        result: Tensor = _Sloped.apply(value, *(part for pair in pairs for part in pair))  # type: ignore[no-untyped-call]
    return result
