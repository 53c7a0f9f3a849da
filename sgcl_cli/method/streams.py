"""Random numbers that depend on a seed and a position only, not on the device, the rank or earlier draws.

Draws of a training step come from a counter-based hash, SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), evaluated on the device.
Draws made once per run or epoch come from ``generator``.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
SHIFTS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WHOLE = 1 << 64


def key(*parts: int) -> int:
    """A hash of the parts in their order, a signed 64-bit integer: the key of a stream."""
    found = 0
    for part in parts:
        found = _mix(found + GOLDEN + _mix(part + GOLDEN))
    return _signed(found)


def counters(positions: Tensor) -> Tensor:
    """Positions in the form that ``uniforms`` takes: int64, of the same shape and device."""
    return (positions + 1) * _signed(GOLDEN)


def uniforms(key: Tensor | int, counter: Tensor) -> Tensor:
    """Numbers in [0, 1) of the streams ``key`` at the positions encoded in ``counter``: float64; the arguments broadcast."""
    return (_hashed(key, counter) >> 11).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)


def integers(key: Tensor | int, counter: Tensor, below: Tensor) -> Tensor:
    """Integers from 0 to ``below`` - 1, int64, equally likely up to one part in 2^64 / below."""
    return _hashed(key, counter).remainder_(below)


def _hashed(key: Tensor | int, counter: Tensor) -> Tensor:
    """64 random bits, the same on every device: multiplication of int64 wraps, and shifts are made logical."""
    bits = counter + key
    for shift, factor in SHIFTS:
        bits = bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << 64 - shift) - 1)).mul_(_signed(factor))
    return bits.bitwise_xor_((bits >> 31).bitwise_and_((1 << 33) - 1))


def _mix(bits: int) -> int:
    """The output function of SplitMix64."""
    bits %= _WHOLE
    for shift, factor in SHIFTS:
        bits = (bits ^ bits >> shift) * factor % _WHOLE
    return bits ^ bits >> 31


def _signed(number: int) -> int:
    return number - _WHOLE if number >= _WHOLE // 2 else number


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """A CPU generator for (seed, stream, position); its draws do not depend on the device.

    :param stream: the purpose, such as "clusters" or "gallery"; streams of one seed are independent.
    :param position: for example an epoch and a run.
    """
    text = "/".join((str(seed), stream, *map(str, position)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def strips(n: int, size: int, draw: torch.Generator) -> Tensor:
    """``size`` distinct indices below n, one from each of ``size`` equal strips of a ring rotated by a random offset.

    Every index is drawn with probability size / n. Unlike a permutation, the cost does not depend on n.

    :returns: int64 (size,), ascending, on the CPU.
    """
    start, width = strip_edges(n, size)
    inside = (torch.rand(size, generator=draw, dtype=torch.float64) * width).long()
    return turned(start + inside, torch.randint(n, (1,), generator=draw), n)


def strip_edges(n: int, size: int) -> tuple[Tensor, Tensor]:
    """Start and length of each of ``size`` equal strips of n: int64 (size,) each."""
    assert 0 < size <= n
    edge = torch.arange(size + 1) * n // size
    return edge[:-1], edge[1:] - edge[:-1]


def turned(index: Tensor, turn: Tensor, n: int) -> Tensor:
    """Indices on a ring of n rotated by ``turn``, ascending."""
    return (index + turn).remainder_(n).sort().values
