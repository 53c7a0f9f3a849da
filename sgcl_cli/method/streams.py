"""Random numbers that depend on a seed and a position, never on a device, a rank or what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """A CPU generator of its own for (seed, stream, position); its draws are the same on every device.

    :param stream: what is drawn, such as "uniform" or "pool"; streams of one seed are independent.
    :param position: where: a step, or an epoch and a run.
    """
    text = "/".join((str(seed), stream, *map(str, position)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def strips(n: int, size: int, draw: torch.Generator) -> torch.Tensor:
    """``size`` distinct indices below n, one from each of ``size`` equal strips of a ring turned by a random offset.

    Every index has the chance size / n. The cost does not depend on n, which a permutation's would.

    :returns: int64 (size,), ascending, on the CPU.
    """
    assert 0 < size <= n
    edge = torch.arange(size + 1) * n // size
    width = edge[1:] - edge[:-1]
    inside = (torch.rand(size, generator=draw, dtype=torch.float64) * width).long()
    turn = torch.randint(n, (1,), generator=draw)
    return ((edge[:-1] + inside + turn) % n).sort().values
