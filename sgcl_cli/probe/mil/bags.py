"""Packed bags: the rows of all bags in one array, with ``offsets`` of the bags.

Bags may have any size and are not padded; reductions run over segments.

Shapes: B bags of n_1 .. n_B rows, N rows in all; D features, H hidden units, K outputs, R values per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


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

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Views of values per row, (N, ...), one for each bag."""
        return torch.split(values, self.lengths.tolist())

    def take(self, bags: NDArray[np.int64], draw: Draw | None = None) -> Bags:
        """A copy of the given bags in that order, float32; with ``draw``, a sample of the rows of each."""
        starts, ends = self.offsets[:-1].tolist(), self.offsets[1:].tolist()
        chosen: list[Tensor | slice] = []
        lengths = []
        for bag in bags.tolist():
            start, count = starts[bag], ends[bag] - starts[bag]
            rows = None if draw is None else draw.rows(bag, count)
            chosen.append(slice(start, start + count) if rows is None else torch.from_numpy(rows + start))
            lengths.append(count if rows is None else len(rows))
        offsets = nn.functional.pad(torch.tensor(lengths, device=self.offsets.device).cumsum(0), (1, 0))
        packed = torch.empty(sum(lengths), self.rows.shape[1], device=self.rows.device)
        for part, where in zip(torch.split(packed, lengths), chosen, strict=True):
            part.copy_(self.rows[where])
        return Bags(packed, offsets)


@dataclass(frozen=True)
class Draw:
    """A sample of at most ``most`` rows per bag without replacement, a function of ``seed``, ``epoch`` and the key of the bag.

    It therefore does not depend on the batches or the device.

    :ivar keys: uint64 (B,), one per bag of the cohort; see ``keys_of``.
    """

    most: int
    seed: int
    epoch: int
    keys: NDArray[np.uint64]

    def rows(self, bag: int, count: int) -> NDArray[np.int64] | None:
        """Row numbers within the bag, ascending; None for all of them."""
        if count <= self.most:
            return None
        generator = np.random.default_rng([self.seed, self.epoch, int(self.keys[bag])])
        return np.sort(generator.choice(count, self.most, replace=False, shuffle=False))


def keys_of(slide_ids: NDArray[np.str_]) -> NDArray[np.uint64]:
    """A key for each slide (B,), a function of its name, so that samples do not depend on the other slides of the cohort."""
    words = [np.random.SeedSequence([*name.encode()]).generate_state(1, np.uint64)[0] for name in slide_ids.tolist()]
    return np.array(words, dtype=np.uint64)


def segment_softmax(scores: Tensor, bags: Bags) -> Tensor:
    """a_i = exp(s_i) / sum over the rows j of i's bag of exp(s_j), shifted by the bag's maximum; (N,)."""
    bag_of_row = bags.bag_of_row
    highest_B = scores.new_full((len(bags),), -torch.inf).scatter_reduce(0, bag_of_row, scores.detach(), "amax")
    weight_N = torch.exp(scores - highest_B[bag_of_row])
    total_B = scores.new_zeros(len(bags)).index_add(0, bag_of_row, weight_N)
    return weight_N / total_B[bag_of_row]


def weighted_sum(weights: Tensor, values: Tensor, bags: Bags) -> Tensor:
    """z_b = sum over the rows i of bag b of a_i v_i: weights (N,), values (N, R) to (B, R).

    One matrix product per bag takes a seventh of the time of an indexed sum over rows, for bags of thousands.
    """
    pairs = zip(bags.split(weights), bags.split(values), strict=True)
    return torch.cat([a_n[None] @ v_nR for a_n, v_nR in pairs])


def row_statistics(bags: Bags, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the rows of the chosen bags, in float64; constant features get scale 1."""
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
    """Cut ``order`` (bag numbers) into batches of at most ``most_bags`` bags and ``most_rows`` rows, but at least one bag."""
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
