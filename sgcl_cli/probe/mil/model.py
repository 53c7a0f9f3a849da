"""Base class of the bag models: standardisation, one embedding layer, and the output.

Shapes as in bags.py. In the equations of the models e_i = ReLU(E x_i) of the standardised row x_i, with dropout in training,
takes the place of the frozen feature; all models have this layer, so that they differ only in pooling.
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
    """Output of a bag model.

    :ivar scores: (B, K).
    :ivar attention: (N,), sums to 1 in each bag; None for a model without attention.
    :ivar inner: further tensors for the loss of the model.
    """

    scores: Tensor
    attention: Tensor | None = None
    inner: dict[str, Tensor] = field(default_factory=dict)


class BagModel(nn.Module, ABC):
    """A model of bags.

    :param mean, scale: (D,) of the training rows, stored as buffers.
    :param outputs: K, scores per bag.
    :param hidden: H, the width of the embedding and of the layers after it.
    :param dropout: share of units set to zero in training.
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
        """Scores and attention; every bag has at least one row."""

    def loss(self, output: Output, bags: Bags, target: Target, chosen: Tensor) -> Tensor:
        """Training loss on the bags ``chosen`` (B,), bag numbers in the cohort: the loss of the target, if not overridden."""
        return target.loss(output.scores, chosen)
