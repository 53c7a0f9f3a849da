"""Random numbers that depend on a seed and a position, never on a device, a rank or what was drawn before.

What is drawn in a training step comes from a counter-based hash, SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which is evaluated
where the numbers are needed: ``keys`` and ``numbers`` on the host, ``uniforms`` and ``integers`` on the device. What is drawn
once a run or once an epoch comes from ``generator``.

Letters: B patches of a batch, C counters.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def keys(*parts: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """A hash of all parts, whole numbers or arrays (B,) of them, in their order: int64 (B,), or (1,) for numbers only."""
    key = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            bits = np.atleast_1d(np.asarray(part)).astype(np.uint64)
            key = _mix(key + np.uint64(_GOLDEN) + _mix(bits + np.uint64(_GOLDEN)))
    return key.view(np.int64)


def numbers(key: NDArray[np.int64], position: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of the streams ``key`` at a position, on the host: float64, as ``uniforms`` gives them on a device."""
    with np.errstate(over="ignore"):
        bits = _mix(key.view(np.uint64) + np.uint64(_GOLDEN * (position + 1) % 2**64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def counters(positions: Tensor) -> Tensor:
    """What ``uniforms`` takes for positions: int64, of the same shape and device."""
    return (positions + 1) * _signed(_GOLDEN)


def uniforms(key: Tensor | int, counter: Tensor) -> Tensor:
    """Numbers in [0, 1) of the streams ``key`` at the positions that ``counter`` stands for: float64, both broadcast."""
    return (_hashed(key, counter) >> 11).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)


def integers(key: Tensor | int, counter: Tensor, below: Tensor) -> Tensor:
    """Whole numbers from 0 to ``below`` - 1, int64, each as likely up to a part in 2^64 / below."""
    return _hashed(key, counter).remainder_(below)


def _hashed(key: Tensor | int, counter: Tensor) -> Tensor:
    """64 random bits, the same on every device: multiplication of int64 wraps, and shifts are made logical."""
    bits = counter + key
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits = bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << 64 - shift) - 1)).mul_(_signed(factor))
    return bits.bitwise_xor_((bits >> 31).bitwise_and_((1 << 33) - 1))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """A CPU generator of its own for (seed, stream, position); its draws are the same on every device.

    :param stream: what is drawn, such as "clusters" or "gallery"; streams of one seed are independent.
    :param position: where: an epoch and a run, for example.
    """
    text = "/".join((str(seed), stream, *map(str, position)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def strips(n: int, size: int, draw: torch.Generator) -> Tensor:
    """``size`` distinct indices below n, one from each of ``size`` equal strips of a ring turned by a random offset.

    Every index has the chance size / n. The cost does not depend on n, which a permutation's would.

    :returns: int64 (size,), ascending, on the CPU.
    """
    start, width = strip_edges(n, size)
    inside = (torch.rand(size, generator=draw, dtype=torch.float64) * width).long()
    return turned(start + inside, torch.randint(n, (1,), generator=draw), n)


def strip_edges(n: int, size: int) -> tuple[Tensor, Tensor]:
    """Where each of ``size`` equal strips of n begins, and how many it holds: int64 (size,) each."""
    assert 0 < size <= n
    edge = torch.arange(size + 1) * n // size
    return edge[:-1], edge[1:] - edge[:-1]


def turned(index: Tensor, turn: Tensor, n: int) -> Tensor:
    """Indices on a ring of n moved on by ``turn``, ascending."""
    return (index + turn).remainder_(n).sort().values
