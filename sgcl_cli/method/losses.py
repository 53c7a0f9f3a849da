"""The equations. A sum of exponentials arrives as its logarithm; every result is one number per anchor.

Letters: B anchors; log_own_B = v.m_i/tau, the others are log sum e^{v.m/T} over the set that they name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

_RELEASED_EPSILON = 1e-7


def contrast(log_positives_B: Tensor, log_negatives_B: Tensor) -> tuple[Tensor, Tensor]:
    """L = -log( S_P / (S_P + S_Q) ), and its slope dL / d log S_Q = - dL / d log S_P = S_Q / (S_P + S_Q).

    L_sp with S_P and S_Q; L_self, and L_in for one quarter, with e^{v.m_i/tau} and the sum over the drawn others. In the form
    log(1 + S_Q / S_P) a small loss is not rounded to 0.
    """
    margin_B = log_negatives_B - log_positives_B
    return softplus(margin_B), margin_B.sigmoid_()


def released_contrast(log_positives_B: Tensor, log_negatives_B: Tensor, outside_B: Tensor) -> tuple[Tensor, Tensor]:
    """L = -log( s + 1e-7 ), s = S_P / (S_P + S_Q + N - |P|), and its slope - dL / d log S_P = s (1 - s) / (s + 1e-7).

    What the published code computes; S_Q has no slope there.

    :param outside_B: N - |P|.
    """
    log_constant_B = torch.logaddexp(log_negatives_B, outside_B.clamp_min(1e-30).log())
    margin_B = log_constant_B - log_positives_B
    share_B = torch.sigmoid(-margin_B)
    shifted_B = share_B + _RELEASED_EPSILON
    return -shifted_B.log(), share_B * torch.sigmoid(margin_B) / shifted_B


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
    """L = w_self L_self + w(e) w_sp L_sp + w_in L_in of one batch, in its parts.

    rest: the total without its spatial part, with gradient.
    self_term, inner_term: L_self, L_in before their weights, detached; 0 for a term left out.
    spatial_sum, spatial_count: L_sp = sum / count; the sum with gradient, the count of anchors that have a positive.
    spatial_weight: w(e) w_sp.    watch: finds the diagnostics.
    """

    rest: Tensor
    self_term: Tensor
    inner_term: Tensor
    spatial_sum: Tensor
    spatial_count: Tensor
    spatial_weight: float
    watch: Callable[[], Diagnostics] | None

    @cached_property
    def diagnostics(self) -> Diagnostics | None:
        """What a person watches, found when it is asked for; None where there is no spatial term."""
        return None if self.watch is None else self.watch()

    @property
    def total(self) -> Tensor:
        """L, with gradient."""
        return self.total_for(self.spatial_count)

    @property
    def spatial_term(self) -> Tensor:
        """L_sp before its weight, detached; 0 where no anchor has a positive."""
        return self.spatial_sum.detach() / self.spatial_count.clamp_min(1)

    def total_for(self, spatial_count: Tensor) -> Tensor:
        """L with L_sp = spatial_sum / spatial_count.

        For ranks whose gradients are averaged: the global count divided by the number of ranks.
        """
        count = spatial_count.clamp_min(torch.finfo(spatial_count.dtype).tiny)
        return torch.addcdiv(self.rest, self.spatial_sum, count, value=self.spatial_weight)
