"""Negative sampling: uniform, and semi-hard by rank.

Draws depend on (seed, step) only, and are the same on every device and rank.

Letters: N patches, K uniform draws, B anchors, P rows of the pool, R ranks in the top share, Z drawn ranks, X places of a set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sgcl_cli.method.settings import Settings, share_of
from sgcl_cli.method.similarity import most_similar
from sgcl_cli.method.streams import counters, integers, key, strip_edges, turned, uniforms

CORNERS = 4
_QUANTILES = 1 << 16
_STRETCHED_SAMPLE = 400_000
_PHASES = 1 << 20
_STEPS = 8  # drawn at once, so that a step needs few operations
_STREAM, _RELEASED = 0x5347434C, 0x5347434D  # separate these draws from those of the views under the same seed


class Draws(NamedTuple):
    """The random numbers of a step; a tensor that the objective does not need is empty.

    :ivar uniform: int64 (K,), indices drawn uniformly, with replacement.
    :ivar corners: int64 (4, K / 4), the same for each of the four corner banks.
    :ivar pool: int64 (P,), distinct, ascending, each row equally likely; all rows if there are no more than P.
    :ivar quantile: float64 (Z,) in [0, 1): an anchor with R ranks to choose from takes the ranks floor(u R).
    :ivar phase: float32 (1,) in [0, 1), the offset at which the thinning of large groups starts.
    """

    uniform: Tensor
    corners: Tensor
    pool: Tensor
    quantile: Tensor
    phase: Tensor


class Sampler:
    """Makes the draws of any step, on the device, for eight steps at a time.

    :param n: N.
    :param uniform: K, or 0 if no uniform draws are needed.
    """

    def __init__(
        self, settings: Settings, n: int, seed: int, device: torch.device | str = "cpu", *, uniform: int
    ) -> None:
        self._n, self._seed = n, seed
        corners = CORNERS * settings.corner_negatives if settings.inner else 0
        pool = min(settings.pool, n) if settings.spatial else 0
        self._all = torch.arange(pool if pool == n else 0, device=device)
        nothing = torch.arange(0)
        start, width = strip_edges(n, pool) if 0 < pool < n else (nothing, nothing)
        self._start = start.to(device)
        self._ranks = RankLaw(settings, n, device) if settings.spatial else None
        ranks = self._ranks.below if self._ranks is not None else nothing
        below = torch.cat([torch.full((uniform + corners,), n), width, ranks, torch.tensor([n, _PHASES])])
        self._parts = [uniform, corners, len(width), len(ranks), 1, 1]
        self._below = below.to(device)
        self._counter = counters(torch.arange(_STEPS * len(below), device=device)).view(_STEPS, -1)
        self._block, self._drawn = -1, [self._all] * len(self._parts)

    def at(self, step: int) -> Draws:
        """The draws of a step."""
        block, row = divmod(step, _STEPS)
        if block != self._block:
            self._block, self._drawn = block, self._of_block(block)
        uniform, corners, pool, ranks, phase = (part[row] for part in self._drawn)
        quantile = ranks if self._ranks is None else self._ranks(ranks, key(self._seed, _RELEASED, step))
        return Draws(uniform, corners.view(CORNERS, -1), pool, quantile, phase)

    def _of_block(self, block: int) -> list[Tensor]:
        numbers = integers(key(self._seed, _STREAM, block), self._counter, self._below)
        uniform, corners, inside, ranks, turn, phase = torch.split(numbers, self._parts, 1)
        pool = self._all.expand(_STEPS, -1)
        if inside.numel():
            pool = turned(inside + self._start, turn, self._n)
        return [uniform, corners, pool, ranks, phase / _PHASES]


class RankLaw:
    """The distribution from which semi-hard ranks are drawn, as quantiles of the top share.

    beta: u ~ Beta(a, b).    uniform: u ~ U(0, 1).    hardest: the first Z ranks of the top share of N.
    u takes one of 2^16 equally likely quantiles of the distribution.
    With as_released, beta is rescaled to the minimum and maximum of a sample (of the size that gives the mean rank of 6.5 % of
    N), and ranks are drawn without replacement, so Z is at most the number of ranks.

    :ivar below: int64 (Z,), exclusive upper bounds of the integers that a step needs.
    """

    def __init__(self, settings: Settings, n: int, device: torch.device | str = "cpu") -> None:
        self._law, self._draws = settings.negative_law, settings.negatives
        self._top = share_of(settings.top_share, n)
        self._released = settings.as_released and self._law != "hardest"
        self.below = torch.full((0 if self._law == "hardest" or self._released else self._draws,), _QUANTILES)
        middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
        if self._law == "hardest":
            middle = (torch.arange(min(self._draws, self._top), dtype=torch.float64) + 0.5) / self._top
        elif self._law == "beta":
            cumulative = beta_cumulative(settings.beta_a, settings.beta_b)
            middle = _inverse(cumulative, middle)
            self._cumulative = cumulative.to(device)
        self._quantile = middle.to(device)
        if self._released:
            self._edge = torch.arange(self._top + 1, dtype=torch.float64, device=device) / self._top
            self._counter = counters(torch.arange(self._top + 2, device=device))

    def __call__(self, number: Tensor, stream: int) -> Tensor:
        """Quantiles, float64 (Z,) in [0, 1), from integers less than ``below``.

        :param stream: the key of the step, for draws without replacement.
        """
        if self._law == "hardest":
            return self._quantile
        if self._released:
            return (self._without_replacement(uniforms(stream, self._counter)) + 0.5) / self._top
        return self._quantile[number]

    def _without_replacement(self, uniform: Tensor) -> Tensor:
        """Ranks drawn without replacement, in order of the draws, by exponential keys.

        Efraimidis and Spirakis, Information Processing Letters 97:181, 2006.
        """
        edge = self._edge
        if self._law == "beta":
            power = uniform[-2:] ** (1 / _STRETCHED_SAMPLE)
            least, largest = _inverse(self._cumulative, torch.stack([1 - power[0], power[1]])).unbind()
            place = (least + edge * (largest - least)) * _QUANTILES
            cell = place.long().clamp_max_(_QUANTILES - 1)
            edge = torch.lerp(self._cumulative[cell], self._cumulative[cell + 1], place - cell)
        clock = -torch.log1p(-uniform[: self._top]) / (edge[1:] - edge[:-1]).clamp_min(1e-300)
        return clock.topk(min(self._draws, self._top), largest=False).indices.double()


def beta_cumulative(a: float, b: float) -> Tensor:
    """The distribution function of Beta(a, b) at the edges of 2^16 equal cells, by the midpoint rule: float64 (2^16 + 1,)."""
    middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    log_density = (a - 1) * middle.log() + (b - 1) * torch.log1p(-middle)
    mass = (log_density - log_density.max()).exp().cumsum(0)
    return torch.cat([mass.new_zeros(1), mass / mass[-1]])


def _inverse(cumulative: Tensor, probability: Tensor) -> Tensor:
    """The quantiles, below 1, of a distribution function tabulated at the edges of equal cells of 0 .. 1."""
    right = torch.searchsorted(cumulative, probability, right=True).clamp_max_(_QUANTILES)
    low, high = cumulative[right - 1], cumulative[right]
    return ((right - 1 + (probability - low) / (high - low)) / _QUANTILES).clamp_max_(1 - 1e-12)


def semi_hard(
    similarity_BP: Tensor,
    pool_P: Tensor,
    out_BX: Tensor,
    quantile_Z: Tensor,
    top_share: float,
    *,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """Q(i): everything but i and P(i), most similar first, the top share of it, at the ranks floor(u R).

    :param similarity_BP: of the anchors with the pool, in the space used for ranking.
    :param out_BX: patches that are excluded, i and P(i), in any order, possibly repeated.
    :param quantile_Z: from :class:`RankLaw`.
    :param whole: whether the pool contains all patches, so that a patch's position is its index.
    :returns: positions in the pool (B, Z), in the order of ``quantile_Z``; and float32 (B,): 0 for an anchor
        without candidates, else 1.
    """
    anchors, size = similarity_BP.shape
    place_BX = out_BX
    if not whole:
        place_BX = torch.searchsorted(pool_P, out_BX)
        place_BX = place_BX.masked_fill_(pool_P[place_BX.clamp_max(size - 1)] != out_BX, size)
    # an extra column takes the patches that are not in the pool
    out_BP = torch.zeros(anchors, size + 1, dtype=torch.bool, device=similarity_BP.device)
    out_BP = out_BP.scatter_(1, place_BX, True)[:, :size]
    top = share_of(top_share, size)
    count_B1 = (size - out_BP.sum(1, keepdim=True, dtype=torch.float32)).clamp_max_(top)
    position_BR = most_similar(similarity_BP.masked_fill(out_BP, -torch.inf), top)
    return position_BR.gather(1, (quantile_Z * count_B1).long()), count_B1[:, 0].sign()
