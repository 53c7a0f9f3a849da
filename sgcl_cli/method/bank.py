"""Memory banks: one remembered unit row per patch, and MoCo's queue of keys.

Letters: N patches, B anchors, D size of a row, Q keys in the queue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sgcl_cli.method.streams import generator

_BLOCK = 65_536


def random_rows(n: int, dim: int, seed: int, stream: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Seeded random unit rows (n, dim), made block by block on the CPU, so equal on every device."""
    draw = generator(seed, stream)
    rows = torch.empty(n, dim, dtype=dtype, device=device)
    for block in torch.split(rows, _BLOCK):
        block.copy_(normalize(torch.randn(block.shape, generator=draw), dim=1))
    return rows


def first_of_each(index_B: Tensor) -> tuple[Tensor, Tensor]:
    """Each index once, ascending, and the place in the batch where it stands first: (U,), (U,)."""
    index_U, which_B = torch.unique(index_B, return_inverse=True)
    place_B = torch.arange(index_B.numel(), device=index_B.device)
    first_U = torch.full_like(index_U, index_B.numel()).scatter_reduce_(0, which_B, place_B, "amin")
    return index_U, first_U


def commit(row_ND: Tensor, index_B: Tensor, new_BD: Tensor, momentum: float) -> None:
    """row <- normalise((1 - momentum) row + momentum new), in place; each index once, the first counts."""
    index_U, first_U = first_of_each(index_B)
    old_UD = row_ND.index_select(0, index_U).float()
    new_UD = new_BD.detach().float().index_select(0, first_U)
    row_ND[index_U] = normalize(old_UD.lerp_(new_UD, momentum), dim=1).to(row_ND.dtype)


class Queue:
    """The keys of the last batches, first in, first out; it remembers whose key each one is.

    It starts as random unit rows that are nobody's (index -1).
    """

    def __init__(self, size: int, dim: int, seed: int, device: torch.device) -> None:
        self.row_QD = random_rows(size, dim, seed, "queue", torch.float32, device)
        self.index_Q = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.head = 0

    def push(self, index_B: Tensor, key_BD: Tensor) -> None:
        """Replace the oldest keys; a batch longer than the queue leaves its last keys."""
        size = self.index_Q.numel()
        index_B, key_BD = index_B[-size:], key_BD[-size:]
        place_B = (self.head + torch.arange(index_B.numel(), device=index_B.device)) % size
        self.row_QD[place_B] = normalize(key_BD.detach().float(), dim=1)
        self.index_Q[place_B] = index_B
        self.head = (self.head + index_B.numel()) % size
