"""What every bag model shares: its own standardisation, one embedding layer, and what it gives back.

Shapes as in bags.py. e_i = ReLU(E x_i) of the standardised row x_i, with dropout in training, stands for the frozen
feature in the models' equations; all models have it, so that they differ in the pooling alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.models.targets import Target


@dataclass(frozen=True)
class Output:
    """Scores (B, K) and attention (N,), which sums to 1 in each bag; None for a model without attention.

    ``inner`` holds what the model's own loss reads besides.
    """

    scores: Tensor
    attention: Tensor | None = None
    inner: dict[str, Tensor] = field(default_factory=dict)


class BagModel(nn.Module, ABC):
    """A model of bags. ``mean`` and ``scale`` (D,) are those of the training rows; it carries them as buffers.

    :param outputs: K, the scores a bag has.
    :param hidden: H, the width of the embedding and of what stands on it.
    :param dropout: share of units that are zero in training; none at evaluation.
    """

    ordered: ClassVar[bool] = False  # whether the order of the rows matters

    shift: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("shift", (-mean.double() / scale.double()).float())
        self.register_buffer("inverse", (1 / scale.double()).float())
        self.embed = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU(), nn.Dropout(dropout))

    def embedded(self, bags: Bags) -> Tensor:
        """e (N, H)."""
        e_NH: Tensor = self.embed(torch.addcmul(self.shift, bags.rows.float(), self.inverse))
        return e_NH

    @abstractmethod
    def forward(self, bags: Bags) -> Output:
        """Scores and attention of bags that each have a row at least."""

    def loss(self, output: Output, bags: Bags, target: Target, chosen: Tensor) -> Tensor:
        """What is minimised on the bags ``chosen`` (B,), numbers of bags of the cohort; the target's loss of the scores."""
        return target.loss(output.scores, chosen)
