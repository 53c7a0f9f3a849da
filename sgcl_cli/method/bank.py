"""Memory banks: one remembered unit row per patch, and MoCo's queue of keys.

Letters: N patches, B anchors, D size of a row, Q keys in the queue, X banks of one shape.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sgcl_cli.method.streams import generator

_BLOCK = 65_536


def random_rows(n: int, dim: int, seed: int, stream: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Seeded random unit rows (n, dim), made block by block on the CPU, so equal on every device."""
    draw = generator(seed, stream)
    rows = torch.empty(n, dim, dtype=dtype, device=device)
    for block in torch.split(rows, _BLOCK):
        block.copy_(normalize(torch.randn(block.shape, generator=draw), dim=1))
    return rows


def first_of_each(index_B: Tensor) -> Tensor:
    """For each position in the batch, the first position that has the same index: int64 (B,)."""
    return (index_B[:, None] == index_B).int().argmax(1)


def commit(row_XND: Tensor, index_B: Tensor, first_B: Tensor, new_XBD: Tensor, momentum: float) -> None:
    """row <- normalise((1 - momentum) row + momentum new), in place; of an index that occurs twice the first occurrence counts.

    :param row_XND: a bank (N, D), or several of one shape (X, N, D).
    :param first_B: from :func:`first_of_each`.
    :param new_XBD: unit rows, (B, D) or (X, B, D).
    """
    dim = row_XND.ndim - 2
    old_XBD = row_XND.index_select(dim, index_B).float()
    new_XBD = new_XBD.detach().float().index_select(dim, first_B)
    row_XND.index_copy_(dim, index_B, normalize(old_XBD.lerp_(new_XBD, momentum), dim=-1).to(row_XND.dtype))


class Queue:
    """The keys of the last batches, first in, first out, each with the index of its patch.

    It starts with random unit rows that belong to no patch (index -1).
    """

    def __init__(self, size: int, dim: int, seed: int, device: torch.device) -> None:
        self.row_QD = random_rows(size, dim, seed, "queue", dtype=torch.float32, device=device)
        self.index_Q = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.head = 0

    def push(self, index_B: Tensor, key_BD: Tensor) -> None:
        """Replace the oldest keys; of a batch longer than the queue the last keys are kept."""
        size = self.index_Q.numel()
        index_B, key_BD = index_B[-size:], key_BD[-size:]
        place_B = (self.head + torch.arange(index_B.numel(), device=index_B.device)) % size
        self.row_QD.index_copy_(0, place_B, normalize(key_BD.detach().float(), dim=1))
        self.index_Q.index_copy_(0, place_B, index_B)
        self.head = (self.head + index_B.numel()) % size
