"""Cox partial likelihood (Cox 1972) with Efron's handling of ties (1977)."""

from __future__ import annotations

import torch
from torch import Tensor


def cox_loss(risk_n: Tensor, time_n: Tensor, event_n: Tensor) -> Tensor:
    """- (1 / E) sum over distinct event times t of [ sum_{i in D_t} s_i - sum_{l < d} log( S(R_t) - (l / d) S(D_t) ) ].

    S(A) = sum_{j in A} exp(s_j); D_t are the d events at t, R_t all whose time is at least t, E the events in all.
    Sums are computed in log space, so risks of any size are safe.

    :param risk_n: log risks s; time_n: times; event_n: 1 or True for an event, 0 or False for censored.
    :returns: a scalar; 0, with gradient 0, if there is no event.
    """
    order = torch.argsort(time_n, descending=True, stable=True)
    risk, event = risk_n[order], event_n[order].bool()
    if not bool(event.any()):
        return risk_n.sum() * 0
    _, group, count = torch.unique_consecutive(time_n[order], return_inverse=True, return_counts=True)
    at_risk_G = torch.logcumsumexp(risk, 0)[count.cumsum(0) - 1]
    group, risk = group[event], risk[event]
    share_G = risk.new_zeros(len(count)).index_add(0, group, torch.exp(risk - at_risk_G[group]))
    tied_G = torch.bincount(group, minlength=len(count))
    first_G = tied_G.cumsum(0) - tied_G
    rank = torch.arange(len(group), device=group.device) - first_G[group]
    terms = at_risk_G[group] - risk + torch.log1p(-rank * share_G[group] / tied_G[group])
    return terms.mean()
