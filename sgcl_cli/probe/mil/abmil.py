"""Attention-based multiple-instance learning, plain and gated (Ilse, Tomczak, Welling 2018, equations 7 to 9)."""

from __future__ import annotations

from torch import Tensor, nn

from sgcl_cli.probe.mil.bags import Bags, segment_softmax, weighted_sum
from sgcl_cli.probe.mil.model import BagModel, Output


class Attention(BagModel):
    """z = sum_i a_i e_i,  a = softmax_i( w^T tanh(V e_i) ),  scores = W z."""

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.tanh = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)
        self.classify = nn.Linear(hidden, outputs)

    def attend(self, e_NH: Tensor) -> Tensor:
        """The attention before its softmax, (N,)."""
        s_N: Tensor = self.score(self.tanh(e_NH)).squeeze(1)
        return s_N

    def pooled(self, bags: Bags) -> tuple[Tensor, Tensor]:
        """z (B, H), the mean of the embedded rows weighted by attention, and the attention (N,)."""
        e_NH = self.embedded(bags)
        a_N = segment_softmax(self.attend(e_NH), bags)
        return weighted_sum(a_N, e_NH, bags), a_N

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K) and attention (N,)."""
        z_BH, a_N = self.pooled(bags)
        return Output(self.classify(z_BH), a_N)


class GatedAttention(Attention):
    """z = sum_i a_i e_i,  a = softmax_i( w^T (tanh(V e_i) * sigmoid(U e_i)) ),  scores = W z."""

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid(), nn.Dropout(dropout))

    def attend(self, e_NH: Tensor) -> Tensor:
        """The attention before its softmax, (N,)."""
        s_N: Tensor = self.score(self.tanh(e_NH) * self.gate(e_NH)).squeeze(1)
        return s_N
