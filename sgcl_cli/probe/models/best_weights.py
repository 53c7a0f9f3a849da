"""Model selection by validation loss."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class BestWeights(Generic[Network]):
    """Base class of trainings that end with the weights of the epoch with the lowest validation loss.

    :ivar model: the network that is trained.
    :ivar best_epoch: the best epoch, from 1; 0 before the first.
    :ivar best_loss: its validation loss; infinite if no loss was finite.
    """

    def __init__(self, model: Network) -> None:
        self.model = model
        self.best_epoch = 0
        self.best_loss = math.inf
        self._best: dict[str, Tensor] = {}

    def rate_epoch(self, epoch: int, loss: float | None) -> None:
        """Copy the weights if the loss is the lowest so far; without a loss the latest epoch is the best."""
        if loss is None:
            self.best_epoch = epoch
        elif loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self._best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Load the weights of the best epoch."""
        if self._best:
            self.model.load_state_dict(self._best)
