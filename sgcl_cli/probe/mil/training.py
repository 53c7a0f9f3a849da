"""Training of a bag model with early stopping on the validation loss, and prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.probe.mil.bags import Bags, Draw, batches, keys_of
from sgcl_cli.probe.mil.model import BagModel
from sgcl_cli.probe.models.best_weights import BestWeights
from sgcl_cli.probe.models.targets import Target

MOST_BAGS = 16
MOST_ROWS = 65_536
STEPS_OF_A_SMALL_EPOCH = 16
VALIDATION_EPOCH = 2**32 - 1


@dataclass(frozen=True)
class BagCohort:
    """All bags with their target; ``keys`` (B,) seed the samples of rows (see ``bags.keys_of``)."""

    bags: Bags
    target: Target
    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, bags: Bags, target: Target, slide_ids: NDArray[np.str_]) -> BagCohort:
        """From the names of the slides, one per bag."""
        return cls(bags, target, keys_of(slide_ids))


class BagTraining(BestWeights[BagModel]):
    """Fit a model on training bags; ``restore_best`` then loads the weights of the epoch with the lowest validation loss.

    The training loop (``engine.fit``) calls its methods. The validation loss is computed after each epoch; training ends after
    ``patience`` epochs without a lower one. Test bags are never used.

    :param train, validation: bag numbers. Validation bags without information on the target (survival without an
        event) are ignored.
    :param seed: for the order of the bags and the samples of rows; initial weights and dropout use torch's global
        generator.
    :param bag_sample: rows sampled from each training bag in every epoch; validation uses one fixed sample. None: all rows.
    """

    def __init__(
        self,
        model: BagModel,
        cohort: BagCohort,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        *,
        patience: int,
        seed: int,
        bag_sample: int | None = None,
    ) -> None:
        super().__init__(model)
        self.cohort = cohort
        self.train = train
        self.validation = validation if cohort.target.informative(validation) else validation[:0]
        self.patience = patience
        self.seed = seed
        self.bag_sample = bag_sample
        self.epochs = 0
        self._lengths = _lengths(cohort.bags, bag_sample)
        small = max(1, len(train) // STEPS_OF_A_SMALL_EPOCH)
        self._size = min(MOST_BAGS, max(small, cohort.target.fewest_bags))

    @property
    def rows_per_step(self) -> float:
        """Expected rows per batch."""
        return min(float(MOST_ROWS), self._size * float(self._lengths[self.train].mean()))

    def begin_epoch(self, position: object) -> None:
        """Set training mode."""
        self.model.train()

    def batches(self, epoch: int, start: int) -> Iterable[BagBatch]:
        """Shuffled batches of an epoch, from batch ``start`` on; about 16 per epoch on small cohorts."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.train)
        draw = self._draw(epoch)
        runs = batches(self._lengths, order, most_bags=self._size, most_rows=MOST_ROWS)
        return (BagBatch(bags, draw) for bags in islice(runs, start, None))

    def loss(self, batch: BagBatch, position: object) -> Tensor:
        """Loss of the model on a batch."""
        packed = self.cohort.bags.take(batch.bags, batch.draw)
        chosen = torch.from_numpy(batch.bags).to(packed.rows.device)
        return self.model.loss(self.model(packed), packed, self.cohort.target, chosen)

    def stepped(self, batch: BagBatch, position: object) -> None:
        """Do nothing after a step."""

    def end_epoch(self, position: object) -> bool:
        """Compute the validation loss; returns whether to stop."""
        self.epochs += 1
        if not len(self.validation):
            self.rate_epoch(self.epochs, None)
            return False
        scores, _ = forward(self.model, self.cohort.bags, self.validation, self._draw(VALIDATION_EPOCH))
        chosen = torch.from_numpy(self.validation).to(scores.device)
        self.rate_epoch(self.epochs, float(self.cohort.target.loss(scores.double(), chosen)))
        return self.epochs - self.best_epoch >= self.patience

    def _draw(self, epoch: int) -> Draw | None:
        return None if self.bag_sample is None else Draw(self.bag_sample, self.seed, epoch, self.cohort.keys)


@dataclass(frozen=True)
class BagBatch:
    """Bag numbers of one step, and the sample of their rows."""

    bags: NDArray[np.int64]
    draw: Draw | None = None


def predict(
    model: BagModel, cohort: BagCohort, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[NDArray[np.float32]] | None]:
    """Predictions (len(chosen), K) of the target from all rows, and the attention of each bag; in evaluation mode.

    Attention (rows of the bag,) sums to 1; None for a model without attention.
    """
    scores, attention = forward(model, cohort.bags, chosen)
    return cohort.target.predict(scores.double()).cpu().numpy(), attention


@torch.inference_mode()
def forward(
    model: BagModel, bags: Bags, chosen: NDArray[np.int64], draw: Draw | None = None, *, most_bags: int = MOST_BAGS
) -> tuple[Tensor, list[NDArray[np.float32]] | None]:
    """Scores (len(chosen), K) and the attention of each bag, in batches of at most ``most_bags``; in evaluation mode."""
    model.eval()
    scores: list[Tensor] = []
    attention: list[NDArray[np.float32]] = []
    lengths = _lengths(bags, draw.most if draw else None)
    for batch in batches(lengths, chosen, most_bags=most_bags, most_rows=MOST_ROWS):
        packed = bags.take(batch, draw)
        output = model(packed)
        scores.append(output.scores)
        if output.attention is not None:
            attention += [part.cpu().numpy() for part in packed.split(output.attention)]
    return torch.cat(scores), attention or None


def _lengths(bags: Bags, most: int | None) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = bags.lengths.cpu().numpy()
    return lengths if most is None else np.minimum(lengths, most)
