"""What bags are to predict: classes, measurements, or survival; each gives the loss of scores and turns them into predictions.

Shapes: C entries a cohort, B of them chosen, K scores each.
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
    """What a model is fitted to.

    ``classes`` int64 (C,), None for a target that has no classes; ``outputs`` is K; ``fewest_bags`` is the smallest
    batch whose loss means something.
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
    """Squared error of the value (C,) standardised by ``mean`` and ``scale``, those of the training rows."""

    values: Tensor
    mean: float
    scale: float
    outputs: int = 1
    fewest_bags: int = 1

    @classmethod
    def fit(cls, values: Tensor, train: NDArray[np.int64]) -> Measurements:
        """Standardised by the rows ``train``; a constant gets scale 1."""
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
        """Mean squared error in variances."""
        truth = ((self.values[chosen_B] - self.mean) / self.scale).to(scores_BK.dtype)
        return nn.functional.mse_loss(scores_BK[:, 0], truth)

    def predict(self, scores_BK: Tensor) -> Tensor:
        """Values in their own units, (B, 1)."""
        return scores_BK * self.scale + self.mean


@dataclass(frozen=True)
class Survival:
    """Cox's partial likelihood of times (C,) and events (C,) (1 for an event, 0 for censored); the score is the log risk.

    A batch forms its own risk sets, so it holds at least 16 bags.
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
        """Whether some event has anybody else still at risk."""
        time, event = (values[torch.from_numpy(chosen).to(values.device)] for values in (self.time, self.event))
        return bool(len(chosen) > 1 and (event.bool() & (time < time.max())).any())

    def loss(self, scores_BK: Tensor, chosen_B: Tensor) -> Tensor:
        """Negative log partial likelihood per event; 0 for a batch without events."""
        return cox_loss(scores_BK[:, 0], self.time[chosen_B], self.event[chosen_B])

    def predict(self, scores_BK: Tensor) -> Tensor:
        """Log risk (B, 1): higher is earlier."""
        return scores_BK
