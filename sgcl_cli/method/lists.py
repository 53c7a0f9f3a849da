"""Lists of different lengths in two tensors (compressed rows).

Letters: L lists, X entries of all lists end to end, B lists taken, T tiles, W entries of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Equal pieces of lists: one gather, one batched product, at most W - 1 idle entries per list."""

    owner: Tensor
    slot: Tensor
    entry: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Lists:
    """List l is ``members[offsets[l]:offsets[l + 1]]``.

    offsets: int64 (L + 1,).    members: int32 or int64 (X,).
    """

    offsets: Tensor
    members: Tensor

    @classmethod
    def of(cls, owner_X: Tensor, member_X: Tensor, size: int) -> Lists:
        """From pairs sorted by owner; ``size`` is the number of lists."""
        offsets = owner_X.new_zeros(size + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(owner_X, minlength=size), 0, out=offsets[1:])
        return cls(offsets, member_X)

    @classmethod
    def empty(cls, size: int, device: torch.device) -> Lists:
        """``size`` lists without entries."""
        return cls(
            torch.zeros(size + 1, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.int64, device=device)
        )

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @cached_property
    def lengths(self) -> Tensor:
        """Entries of each list."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def owner(self) -> Tensor:
        """The list that each entry belongs to."""
        return torch.repeat_interleave(self.lengths, output_size=self.members.numel())

    @cached_property
    def place(self) -> Tensor:
        """The place of each entry within its list."""
        return torch.arange(self.members.numel(), device=self.offsets.device) - self.offsets[self.owner]

    @cached_property
    def longest(self) -> int:
        """Entries of the longest list."""
        return int(self.lengths.max()) if len(self) else 0

    def take(self, index_B: Tensor, at_most: int | None = None, phase: float = 0.0) -> Lists:
        """The lists ``index_B``, in that order, members as int64.

        :param at_most: longer lists are thinned to this many entries at equal distances.
        :param phase: in [0, 1): where between two kept entries the thinning starts.
        """
        whole_B = self.offsets[index_B + 1] - self.offsets[index_B]
        kept_B = whole_B if at_most is None else whole_B.clamp_max(at_most)
        offsets = torch.zeros(len(index_B) + 1, dtype=torch.int64, device=self.offsets.device)
        torch.cumsum(kept_B, 0, out=offsets[1:])
        taken = Lists(offsets, offsets.new_empty(int(offsets[-1])))
        place_X = taken.place
        if at_most is not None:
            stride_B = whole_B.double() / kept_B.clamp_min(1)
            place_X = ((place_X + phase) * stride_B[taken.owner]).long()
        start_X = self.offsets[index_B][taken.owner]
        return Lists(offsets, self.members[start_X + place_X].long())

    def keep(self, keep_X: Tensor) -> Lists:
        """The same lists with only the entries where ``keep_X`` is true."""
        return Lists.of(self.owner[keep_X], self.members[keep_X], len(self))

    def padded(self, value_X: Tensor, fill: float | int) -> Tensor:
        """One value per entry as a (L, longest) table, filled up with ``fill``."""
        table = value_X.new_full((len(self), self.longest), fill)
        table[self.owner, self.place] = value_X
        return table

    def tiles(self, width: int, at_once: int) -> Iterator[Tiles]:
        """Cut every list into pieces of ``width`` entries; ``at_once`` pieces at a time."""
        tile_L = (self.lengths + width - 1) // width
        total = int(tile_L.sum())
        owner_T = torch.repeat_interleave(tile_L, output_size=total)
        slot_T = torch.arange(total, device=owner_T.device) - (tile_L.cumsum(0) - tile_L)[owner_T]
        lane_W = torch.arange(width, device=owner_T.device)
        for start in range(0, total, at_once):
            owner, slot = owner_T[start : start + at_once], slot_T[start : start + at_once]
            place = slot[:, None] * width + lane_W
            valid = place < self.lengths[owner][:, None]
            entry = (self.offsets[owner][:, None] + place).masked_fill_(~valid, 0)
            yield Tiles(owner, slot, entry, valid)


def distinct(owner_X: Tensor, member_X: Tensor, size: int, n: int) -> Lists:
    """Lists from pairs in any order; a pair that comes twice counts once; members ascend.

    :param size: number of lists.
    :param n: members are below it.
    """
    key_X = torch.unique(owner_X * n + member_X)
    return Lists.of(torch.div(key_X, n, rounding_mode="floor"), key_X % n, size)


def union(lists: list[Lists], n: int) -> Lists:
    """Join lists owner by owner; an entry in several of them counts once; members ascend."""
    owner_X, member_X = (torch.cat(part) for part in zip(*((one.owner, one.members) for one in lists), strict=True))
    return distinct(owner_X, member_X, len(lists[0]), n)
