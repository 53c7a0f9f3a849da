"""Linear probe as in papers on self-supervised learning: softmax regression by SGD with a fixed schedule.

No setting is chosen on validation rows. Features are frozen and standardised on the training rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgcl_cli.probe.models.standardise import Standardiser

BATCH = 128
MOMENTUM = 0.9
MILESTONES = (0.6, 0.8)


class Training:
    """Training of a linear layer, initially zero, on shuffled rows with cross-entropy and without weight decay.

    The training loop (``engine.fit``) calls its methods.

    :param features: (N, D); labels: (N,) in [0, ``classes``); rows: numbers of the training rows.
    :param seed: for the order of the rows.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        classes: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.standardise = Standardiser.fit(features[rows])
        self._features = self._tensor(features[rows], device)
        self._labels = torch.from_numpy(labels[rows]).to(device)
        self._seed = seed
        self.model = nn.Linear(features.shape[1], classes, device=device)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)

    @property
    def steps(self) -> int:
        """Steps per epoch; the last batch may be smaller."""
        return -(-len(self._labels) // BATCH)

    def begin_epoch(self, position: object) -> None:
        """Do nothing before an epoch."""

    def batches(self, epoch: int, start: int) -> Iterator[Tensor]:
        """Positions of the rows of each batch, from batch ``start`` on."""
        order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self._labels)))
        return iter(torch.split(order.to(self._labels.device), BATCH)[start:])

    def loss(self, batch: Tensor, position: object) -> Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(self.model(self._features[batch]), self._labels[batch])

    def stepped(self, batch: Tensor, position: object) -> None:
        """Do nothing after a step."""

    def end_epoch(self, position: object) -> bool:
        """Never stop early."""
        return False

    @torch.inference_mode()
    def predict(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (n, K) of features (n, D)."""
        scores = self.model(self._tensor(features, self._labels.device))
        probability: NDArray[np.float64] = torch.softmax(scores.double(), dim=1).cpu().numpy()
        return probability

    def _tensor(self, features: NDArray[np.floating], device: torch.device) -> Tensor:
        return torch.from_numpy(self.standardise(features).astype(np.float32)).to(device)
