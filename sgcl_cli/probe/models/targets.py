"""Targets of bag models: classes, measurements, survival; each defines the loss of scores and the prediction from them.

Shapes: C entries in a cohort, B of them chosen, K scores each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgcl_cli.probe.models.cox import cox_loss


class Target(Protocol):
    """The target of a model.

    ``classes`` is int64 (C,), None for a target without classes; ``outputs`` is K; ``fewest_bags`` is the smallest
    batch with a meaningful loss.
    """

    @property
    def classes(self) -> Tensor | None: ...

    @property
    def outputs(self) -> int: ...

    @property
    def fewest_bags(self) -> int: ...

    def informative(self, chosen: NDArray[np.int64]) -> bool: ...

    def loss(self, scores_BK: Tensor, chosen_B: Tensor) -> Tensor: ...

    def predict(self, scores_BK: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Classes:
    """Cross-entropy of softmax probabilities; ``classes`` int64 (C,) in [0, ``outputs``)."""

    classes: Tensor
    outputs: int
    fewest_bags: int = 1

    def informative(self, chosen: NDArray[np.int64]) -> bool:
        """Whether there is any row."""
        return len(chosen) > 0

    def loss(self, scores_BK: Tensor, chosen_B: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(scores_BK, self.classes[chosen_B])

    def predict(self, scores_BK: Tensor) -> Tensor:
        """Probabilities (B, K)."""
        return torch.softmax(scores_BK, dim=1)


@dataclass(frozen=True)
class Measurements:
    """Squared error of values (C,) standardised by ``mean`` and ``scale`` of the training rows."""

    values: Tensor
    mean: float
    scale: float
    outputs: int = 1
    fewest_bags: int = 1

    @classmethod
    def fit(cls, values: Tensor, train: NDArray[np.int64]) -> Measurements:
        """With mean and scale of the rows ``train``; the scale of constant values is 1."""
        known = values[torch.from_numpy(train).to(values.device)].double()
        spread = float(known.std(correction=0))
        return cls(values, float(known.mean()), spread if spread > 0 else 1.0)

    @property
    def classes(self) -> Tensor | None:
        """None."""
        return None

    def informative(self, chosen: NDArray[np.int64]) -> bool:
        """Whether there is any row."""
        return len(chosen) > 0

    def loss(self, scores_BK: Tensor, chosen_B: Tensor) -> Tensor:
        """Mean squared error of standardised values."""
        truth = ((self.values[chosen_B] - self.mean) / self.scale).to(scores_BK.dtype)
        return nn.functional.mse_loss(scores_BK[:, 0], truth)

    def predict(self, scores_BK: Tensor) -> Tensor:
        """Values in their original units, (B, 1)."""
        return scores_BK * self.scale + self.mean


@dataclass(frozen=True)
class Survival:
    """Cox's partial likelihood of times (C,) and events (C,) (1 for an event, 0 for censored); the score is the log risk.

    Risk sets are formed within a batch, so a batch has at least 16 bags.
    """

    time: Tensor
    event: Tensor
    outputs: int = 1
    fewest_bags: int = 16

    @property
    def classes(self) -> Tensor | None:
        """None."""
        return None

    def informative(self, chosen: NDArray[np.int64]) -> bool:
        """Whether anyone else is at risk after some event."""
        time, event = (values[torch.from_numpy(chosen).to(values.device)] for values in (self.time, self.event))
        return bool(len(chosen) > 1 and (event.bool() & (time < time.max())).any())

    def loss(self, scores_BK: Tensor, chosen_B: Tensor) -> Tensor:
        """Negative log partial likelihood per event; 0 for a batch without events."""
        return cox_loss(scores_BK[:, 0], self.time[chosen_B], self.event[chosen_B])

    def predict(self, scores_BK: Tensor) -> Tensor:
        """Log risk (B, 1): higher means an earlier event."""
        return scores_BK
