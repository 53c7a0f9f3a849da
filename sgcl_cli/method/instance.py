"""The instance discrimination loss of L_self and L_in.

Letters: B anchors, D size of v, K rows that all anchors share, Y leading dimensions.
"""

from __future__ import annotations

from torch import Tensor

from sgcl_cli.method import similarity
from sgcl_cli.method.losses import contrast


def instance_loss(
    v_YBD: Tensor,
    own_YBD: Tensor,
    index_B: Tensor,
    row_KD: Tensor,
    index_K: Tensor,
    *,
    temperature: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """-log( e^{v.own/tau} / (e^{v.own/tau} + sum_k e^{v.m_k/tau}) ), the mean over all rows v.

    :param own_YBD: the positive of each row.
    :param row_KD: the negatives, float32; rows of the anchor's own patch are ignored.
    :param index_K: the patches of these rows.
    :returns: the mean, and the slope of ``weight`` times it in v (Y, B, D).
    """
    query_YBD = v_YBD / temperature
    log_others_YB, slope_YBD = similarity.log_sum_shared(query_YBD, index_B, row_KD, index_K)
    log_own_YB = (query_YBD * own_YBD).sum(-1)
    loss_YB, share_YB = contrast(log_own_YB, log_others_YB)
    share_YB = share_YB.mul_(weight / (temperature * share_YB.numel()))
    return loss_YB.mean(), slope_YBD.sub_(own_YBD).mul_(share_YB[..., None])
