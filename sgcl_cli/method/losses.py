"""The equations of the losses. Sums of exponentials are passed as logarithms; every result is one number per anchor.

Letters: B anchors; log_own_B = v.m_i/tau, the others are log sum e^{v.m/T} over the set in their name.
"""

from __future__ import annotations

import math

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

    As the published code computes it; there S_Q has no gradient.

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
