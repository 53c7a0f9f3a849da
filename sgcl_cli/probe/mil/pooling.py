"""Pooling without attention: mean or maximum of the embedded rows, then a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.model import BagModel, Output


class MeanPool(BagModel):
    """z = (1 / n) sum_i e_i,  scores = W z."""

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.classify = nn.Linear(hidden, outputs)

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K); no attention."""
        return Output(self.classify(torch.stack([e_nH.mean(0) for e_nH in bags.split(self.embedded(bags))])))


class MaxPool(BagModel):
    """z_h = max_i e_ih for each unit h,  scores = W z."""

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.classify = nn.Linear(hidden, outputs)

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K); no attention."""
        return Output(self.classify(torch.stack([e_nH.amax(0) for e_nH in bags.split(self.embedded(bags))])))
