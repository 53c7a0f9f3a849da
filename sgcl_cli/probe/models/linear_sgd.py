"""The linear probe of self-supervised learning's papers: softmax regression by stochastic gradient descent for a fixed time.

Nothing is chosen: rate, epochs and steps stand beforehand. Features are frozen and standardised on the rows that are
fitted on.
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
    """What a training loop drives: a linear layer from zero on shuffled rows, cross-entropy, no decay of weights.

    :param features: (N, D); labels: (N,) in [0, ``classes``); rows: the numbers of those that are fitted on.
    :param seed: of the order of the rows.
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
        """Steps of an epoch; the last batch may be short."""
        return -(-len(self._labels) // BATCH)

    def begin_epoch(self, position: object) -> None:
        """Nothing changes between epochs."""

    def batches(self, epoch: int, start: int) -> Iterator[Tensor]:
        """Places of the rows of each batch, from batch ``start`` on."""
        order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self._labels)))
        return iter(torch.split(order.to(self._labels.device), BATCH)[start:])

    def loss(self, batch: Tensor, position: object) -> Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(self.model(self._features[batch]), self._labels[batch])

    def stepped(self, batch: Tensor, position: object) -> None:
        """Nothing is kept per step."""

    def end_epoch(self, position: object) -> bool:
        """Never earlier than the last epoch."""
        return False

    @torch.inference_mode()
    def predict(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (n, K) of features (n, D)."""
        scores = self.model(self._tensor(features, self._labels.device))
        probability: NDArray[np.float64] = torch.softmax(scores.double(), dim=1).cpu().numpy()
        return probability

    def _tensor(self, features: NDArray[np.floating], device: torch.device) -> Tensor:
        return torch.from_numpy(self.standardise(features).astype(np.float32)).to(device)
