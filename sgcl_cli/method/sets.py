"""Sets of patches, one for each anchor of a batch, as the rows of a table int64 (B, X).

An anchor is never in its own set, so its index marks an unused place. Sets of all sizes then have one shape, which the host
knows in advance, and no function here but ``members`` has to synchronise with the device.

Letters: B anchors, X places in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def empty(index_B: Tensor) -> Tensor:
    """Sets without entries: (B, 1)."""
    return index_B[:, None]


def taken(member_BX: Tensor, index_B: Tensor) -> Tensor:
    """Mask of the places that hold an entry: bool (B, X)."""
    return member_BX != index_B[:, None]


def sizes(member_BX: Tensor, index_B: Tensor) -> Tensor:
    """Entries of each set: float32 (B,)."""
    return taken(member_BX, index_B).sum(1, dtype=torch.float32)


def repeats(ascending: Tensor) -> Tensor:
    """Where an entry equals the one before it in the last dimension: bool, of the same shape."""
    found = torch.zeros_like(ascending, dtype=torch.bool)
    torch.eq(ascending[..., 1:], ascending[..., :-1], out=found[..., 1:])
    return found


def distinct(member_BX: Tensor, index_B: Tensor) -> Tensor:
    """The same sets, sorted, with repeated entries removed: (B, X)."""
    sorted_BX = member_BX.sort(dim=1).values
    return torch.where(repeats(sorted_BX), index_B[:, None], sorted_BX)


def members(member_BX: Tensor, index_B: Tensor, row: int) -> Tensor:
    """The entries of one set: int64 (M,). Synchronises with the device."""
    entry_X = member_BX[row]
    return entry_X[entry_X != index_B[row]]
