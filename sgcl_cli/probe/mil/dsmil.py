"""Dual-stream multiple-instance learning (Li, Li, Eliceiri 2021): the critical row of each class and the rows similar to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.model import BagModel, Output
from sgcl_cli.probe.models.targets import Target


class DualStream(BagModel):
    """scores = (c_m + c_b) / 2.

    First stream, rows:  c_m = max_i W_0 e_i for each class, reached at its critical row m.
    Second stream, bag:  q_i = W_q e_i (two layers, tanh),
    u_i = softmax_i( <q_i, q_m> / sqrt(H) ) for each class,  b = sum_i u_i e_i,  c_b = W_b [b of every class].

    The loss is the mean of the losses of the two streams. The scale 1 / sqrt(H) and the sum over e_i (instead of the paper's
    v_i = W_v e_i) are the defaults of the released code. Attention is u of the class with the highest score.
    """

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.rows = nn.Linear(hidden, outputs)
        self.query = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.Tanh())
        self.classify = nn.Linear(outputs * hidden, outputs)

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K), the mean of both streams, and attention (N,)."""
        e_NH = self.embedded(bags)
        parts = (self.rows(e_NH), self.query(e_NH), e_NH)
        highest, pooled, attention = [], [], []
        for c_nK, q_nH, e_nH in zip(*map(bags.split, parts), strict=True):
            c_K, critical_K = c_nK.max(0)
            u_Kn = torch.softmax(q_nH[critical_K] @ q_nH.T / q_nH.shape[1] ** 0.5, dim=1)
            highest.append(c_K)
            pooled.append((u_Kn @ e_nH).flatten())
            attention.append(u_Kn)
        c_m_BK = torch.stack(highest)
        c_b_BK = self.classify(torch.stack(pooled))
        scores_BK = (c_m_BK + c_b_BK) / 2
        a_N = torch.cat([u_Kn[k] for u_Kn, k in zip(attention, scores_BK.argmax(1).tolist(), strict=True)])
        return Output(scores_BK, a_N, {"rows": c_m_BK, "bag": c_b_BK})

    def loss(self, output: Output, bags: Bags, target: Target, chosen: Tensor) -> Tensor:
        """The mean of the losses of the two streams."""
        return (target.loss(output.inner["rows"], chosen) + target.loss(output.inner["bag"], chosen)) / 2
