"""The equations. A sum of exponentials arrives as its logarithm; every result is one number per anchor.

Letters: B anchors; log_own_B = v.m_i/tau, the others are log sum e^{v.m/T} over the set that they name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

_RELEASED_EPSILON = 1e-7


def instance_loss(log_own_B: Tensor, log_others_B: Tensor) -> Tensor:
    """L_self = -log( e^{v.m_i/tau} / (e^{v.m_i/tau} + sum_{k in K} e^{v.m_k/tau}) ); L_in for one quarter."""
    return softplus(log_others_B - log_own_B)


def spatial_loss(log_positives_B: Tensor, log_negatives_B: Tensor) -> Tensor:
    """L_sp = -log( S_P / (S_P + S_Q) )."""
    return softplus(log_negatives_B - log_positives_B)


def released_spatial_loss(log_positives_B: Tensor, log_negatives_B: Tensor, outside_B: Tensor) -> Tensor:
    """L_sp = -log( S_P / (S_P + S_Q + N - |P|) + 1e-7 ), S_Q detached: what the published code computes.

    :param outside_B: N - |P|.
    """
    log_constant_B = torch.logaddexp(log_negatives_B.detach(), outside_B.clamp_min(1e-30).log())
    share_B = (log_positives_B - torch.logaddexp(log_positives_B, log_constant_B)).exp()
    return -torch.log(share_B + _RELEASED_EPSILON)


def ramp(epoch: float, length: float) -> float:
    """w(e) = exp(-5 (1 - min(e, E)/E)^2), e and E in epochs; 1 for E = 0."""
    return math.exp(-5.0 * (1.0 - min(max(epoch, 0.0), length) / length) ** 2) if length > 0 else 1.0


@dataclass(frozen=True)
class Diagnostics:
    """What a person watches; detached. Means are NaN where there is nothing to average.

    spatial, propagated: positives of each anchor, float32 (B,).    positive_similarity, negative_similarity: mean of
    v . m over all of the batch.    same_slide: share of the propagated positives on the anchor's own slide.
    """

    spatial: Tensor
    propagated: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor
    same_slide: Tensor


@dataclass(frozen=True)
class Losses:
    """L = w_self L_self + w(e) w_sp L_sp + w_in L_in of one batch, and its parts.

    total: with gradient.    rest: the total without its spatial part, with gradient.
    self_term, spatial_term, inner_term: L_self, L_sp, L_in before their weights, detached; 0 for a term left out.
    spatial_sum, spatial_count: L_sp = sum / count; the sum with gradient, the count of anchors that have a positive.
    spatial_weight: w(e) w_sp.    diagnostics: None where there is no spatial term.
    """

    total: Tensor
    rest: Tensor
    self_term: Tensor
    spatial_term: Tensor
    inner_term: Tensor
    spatial_sum: Tensor
    spatial_count: Tensor
    spatial_weight: float
    diagnostics: Diagnostics | None

    def total_for(self, spatial_count: Tensor | float) -> Tensor:
        """L with L_sp = spatial_sum / spatial_count.

        For ranks whose gradients are averaged: the global count divided by the number of ranks.
        """
        count = torch.as_tensor(spatial_count, dtype=self.total.dtype, device=self.total.device)
        return self.rest + self.spatial_weight * self.spatial_sum / count.clamp_min(torch.finfo(count.dtype).tiny)
