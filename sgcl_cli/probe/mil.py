"""Attention-based multiple-instance learning (Ilse, Tomczak, Welling 2018), the gated form, on packed bags.

Packed: the rows of all bags of a batch stand one below the other and ``offsets`` says where each bag begins, so a
bag may have any size, none is padded, and the softmax runs over segments.

Shapes: B bags of n_1 .. n_B rows, N rows in all; D features, H hidden units, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MOST_BAGS = 16
MOST_ROWS = 65_536
STEPS_OF_A_SMALL_EPOCH = 16


@dataclass(frozen=True)
class Bags:
    """Rows (N, D) of B bags; bag b is ``rows[offsets[b]:offsets[b + 1]]``, ``offsets`` int64 (B + 1,)."""

    rows: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Rows in each bag, (B,)."""
        return self.offsets.diff()

    @property
    def bag_of_row(self) -> Tensor:
        """The bag each row belongs to, (N,)."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.rows.device), self.lengths)

    def take(self, bags: NDArray[np.int64]) -> Bags:
        """The named bags, in that order, packed anew."""
        starts, ends = self.offsets[:-1].tolist(), self.offsets[1:].tolist()
        rows = torch.cat([self.rows[starts[b] : ends[b]] for b in bags.tolist()])
        lengths = self.lengths[torch.from_numpy(bags).to(self.offsets.device)]
        return Bags(rows, nn.functional.pad(lengths.cumsum(0), (1, 0)))


def segment_softmax(scores_N: Tensor, bag_of_row_N: Tensor, bags: int) -> Tensor:
    """a_i = exp(s_i) / sum over the rows j of i's bag of exp(s_j), shifted by the bag's maximum."""
    highest_B = scores_N.new_full((bags,), -torch.inf).scatter_reduce(0, bag_of_row_N, scores_N.detach(), "amax")
    weight_N = torch.exp(scores_N - highest_B[bag_of_row_N])
    total_B = scores_N.new_zeros(bags).index_add(0, bag_of_row_N, weight_N)
    return weight_N / total_B[bag_of_row_N]


class GatedAttention(nn.Module):
    """z = sum_i a_i e_i,  a = softmax_i( w^T (tanh(V e_i) * sigmoid(U e_i)) ),  logits = W z.

    e_i = ReLU(E x_i) of the standardised row x_i. ``mean`` and ``scale`` (D,) are those of the training rows; they
    are buffers, so a model carries its own standardisation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, *, classes: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.embed = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU(), nn.Dropout(dropout))
        self.tanh = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)
        self.classify = nn.Linear(hidden, classes)

    def forward(self, bags: Bags) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and attention (N,), which sums to 1 in each bag."""
        e_NH = self.embed((bags.rows.float() - self.mean) / self.scale)
        bag_of_row = bags.bag_of_row
        a_N = segment_softmax(self.score(self.tanh(e_NH) * self.gate(e_NH)).squeeze(1), bag_of_row, len(bags))
        z_BH = e_NH.new_zeros(len(bags), e_NH.shape[1]).index_add(0, bag_of_row, a_N[:, None] * e_NH)
        return self.classify(z_BH), a_N


class Training:
    """Fit a model on training bags and keep the weights of its best epoch by validation loss (the last without one).

    It is what a training loop drives: shuffled batches, their cross-entropy, a look at the validation bags after each
    epoch, which ends training after ``patience`` epochs without a lower loss.

    :param bags: all bags; ``labels`` (B,) int64; ``train`` and ``validation`` are numbers of bags.
    :param seed: of the order of the bags; initial weights and dropout follow torch's global generator.
    """

    def __init__(
        self,
        model: GatedAttention,
        bags: Bags,
        labels: Tensor,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        *,
        patience: int,
        seed: int,
    ) -> None:
        self.model = model
        self.bags = bags
        self.labels = labels
        self.train = train
        self.validation = validation
        self.patience = patience
        self.seed = seed
        self.best_epoch = 0
        self.best_loss = math.inf
        self.epochs = 0
        self._best: dict[str, Tensor] = {}
        self._lengths = bags.lengths.cpu().numpy()
        self._size = min(MOST_BAGS, max(1, len(train) // STEPS_OF_A_SMALL_EPOCH))

    @property
    def rows_per_step(self) -> float:
        """Rows of an average batch."""
        return min(float(MOST_ROWS), self._size * float(self._lengths[self.train].mean()))

    def begin_epoch(self, position: object) -> None:
        """Dropout on."""
        self.model.train()

    def batches(self, epoch: int, start: int) -> Iterable[NDArray[np.int64]]:
        """Bag numbers of each batch of an epoch, from batch ``start`` on; about 16 steps an epoch on small cohorts."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.train)
        return islice(batches(self._lengths, order, most_bags=self._size, most_rows=MOST_ROWS), start, None)

    def loss(self, batch: NDArray[np.int64], position: object) -> Tensor:
        """Mean cross-entropy of the batch's bags."""
        logits, _ = self.model(self.bags.take(batch))
        return nn.functional.cross_entropy(logits, self.labels[torch.from_numpy(batch)])

    def stepped(self, batch: NDArray[np.int64], position: object) -> None:
        """Nothing is kept per step."""

    def end_epoch(self, position: object) -> bool:
        """Whether to stop."""
        self.epochs += 1
        if not len(self.validation):
            self.best_epoch = self.epochs
            return False
        probability, _ = predict(self.model, self.bags, self.validation)
        truth = self.labels[torch.from_numpy(self.validation)].cpu().numpy()
        chosen = probability[np.arange(len(truth)), truth]
        loss = float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epochs
            self._best = {name: value.clone() for name, value in self.model.state_dict().items()}
        return self.epochs - self.best_epoch >= self.patience

    def restore_best(self) -> None:
        """Put the weights of the best epoch back."""
        if self._best:
            self.model.load_state_dict(self._best)


@torch.inference_mode()
def predict(
    model: GatedAttention, bags: Bags, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[NDArray[np.float32]]]:
    """Class probabilities (len(chosen), K) and each bag's attention, which sums to 1; dropout off."""
    model.eval()
    lengths = bags.lengths.cpu().numpy()
    probability, attention = [], []
    for batch in batches(lengths, chosen, most_bags=MOST_BAGS, most_rows=MOST_ROWS):
        packed = bags.take(batch)
        logits, weight = model(packed)
        probability.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
        attention += np.split(weight.cpu().numpy(), packed.offsets[1:-1].cpu().numpy())
    return np.concatenate(probability), attention


def row_statistics(bags: Bags, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the rows of the chosen bags, bag by bag in float64; constants get scale 1."""
    offsets = bags.offsets.tolist()
    parts = [bags.rows[offsets[bag] : offsets[bag + 1]] for bag in chosen.tolist()]
    count = sum(len(part) for part in parts)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / count
    variance = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / count
    scale = variance.sqrt()
    return mean, torch.where(scale > 1e-12 * mean.abs().clamp(min=1), scale, 1.0)


def batches(
    lengths: NDArray[np.int64], order: NDArray[np.int64], *, most_bags: int, most_rows: int
) -> Iterator[NDArray[np.int64]]:
    """Cut ``order`` (bag numbers) into runs of one bag or more, up to ``most_bags`` bags and ``most_rows`` rows."""
    run: list[int] = []
    rows = 0
    for bag in order.tolist():
        if run and (len(run) == most_bags or rows + lengths[bag] > most_rows):
            yield np.array(run, dtype=np.int64)
            run, rows = [], 0
        run.append(bag)
        rows += int(lengths[bag])
    if run:
        yield np.array(run, dtype=np.int64)


def mean_pool(rows: NDArray[np.floating], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean row of each bag, (B, D); every bag has at least one row."""
    lengths = np.diff(offsets)
    return np.stack(
        [rows[start : start + n].mean(axis=0, dtype=np.float64) for start, n in zip(offsets[:-1], lengths, strict=True)]
    )
