"""Which patches an anchor is held against: uniform draws, and semi-hard ranks.

What is drawn here depends on (seed, step) only; these functions are public so that a test can read the draws back.

Letters: N patches, K uniform draws, B anchors, P rows of the pool, R ranks in the top share, Z drawn ranks.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sgcl_cli.method.lists import Lists
from sgcl_cli.method.settings import Settings, share_of
from sgcl_cli.method.similarity import most_similar
from sgcl_cli.method.streams import generator, strips

CORNERS = 4
_QUANTILES = 1 << 16
_STRETCHED_SAMPLE = 400_000
_TRIES = 16


def uniform_draws(seed: int, step: int, n: int, count: int) -> Tensor:
    """K indices drawn uniformly, with replacement, ascending: int64 (K,). The order has no meaning; it speeds reading."""
    return torch.randint(n, (count,), generator=generator(seed, "uniform", step)).sort().values


def corner_draws(seed: int, step: int, n: int, count: int) -> Tensor:
    """``count`` uniform indices for each of the four corner banks, each row ascending: int64 (4, count)."""
    return torch.randint(n, (CORNERS, count), generator=generator(seed, "corners", step)).sort(1).values


def pool_draws(seed: int, step: int, n: int, size: int) -> Tensor:
    """``size`` distinct rows, every row with the same chance, ascending; all rows when there are no more: int64 (P,)."""
    if n <= size:
        return torch.arange(n)
    return strips(n, size, generator(seed, "pool", step))


def rank_quantiles(seed: int, step: int, settings: Settings, n: int) -> Tensor:
    """u in [0, 1), Z of them: an anchor with R ranks to choose from takes the ranks floor(u R): float64 (Z,).

    beta: u ~ Beta(a, b).    uniform: u ~ U(0, 1).    hardest: the first Z ranks of the top share of N.
    With as_released, beta is stretched to the least and the largest of a sample (of the size that gives the mean rank
    of 6.5 % of N) and ranks of N do not repeat: Z is then what there is.
    """
    draws, top = settings.negatives, share_of(settings.top_share, n)
    if settings.negative_law == "hardest":
        return (torch.arange(min(draws, top), dtype=torch.float64) + 0.5) / top
    draw = generator(seed, "ranks", step)
    if not settings.as_released:
        return _law(settings, torch.rand(draws, generator=draw, dtype=torch.float64))
    sample = _law(settings, torch.rand(_TRIES * draws, generator=draw, dtype=torch.float64))
    if settings.negative_law == "beta":
        lowest, highest = _extremes(settings, draw)
        sample = ((sample - lowest) / (highest - lowest)).clamp_(0, 1 - 1e-12)
    return (_first_distinct((sample * top).long(), draws).double() + 0.5) / top


def _law(settings: Settings, uniform: Tensor) -> Tensor:
    if settings.negative_law == "uniform":
        return uniform
    cumulative = _beta_cumulative(settings.beta_a, settings.beta_b)
    right = torch.searchsorted(cumulative, uniform, right=True).clamp_max_(_QUANTILES)
    low, high = cumulative[right - 1], cumulative[right]
    return ((right - 1 + (uniform - low) / (high - low)) / _QUANTILES).clamp_max_(1 - 1e-12)


def _extremes(settings: Settings, draw: torch.Generator) -> Tensor:
    """The least and the largest of a large sample of the law, from the law of the extremes of uniform draws."""
    extreme = torch.rand(2, generator=draw, dtype=torch.float64) ** (1 / _STRETCHED_SAMPLE)
    return _law(settings, torch.stack([1 - extreme[0], extreme[1]]))


@lru_cache(maxsize=4)
def _beta_cumulative(a: float, b: float) -> Tensor:
    """The distribution function of Beta(a, b) at the edges of 2^16 equal cells, by the midpoint rule."""
    middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    log_density = (a - 1) * middle.log() + (b - 1) * torch.log1p(-middle)
    mass = (log_density - log_density.max()).exp().cumsum(0)
    return torch.cat([mass.new_zeros(1), mass / mass[-1]])


def _first_distinct(rank_Z: Tensor, count: int) -> Tensor:
    """Draws without replacement: repeated draws are passed over; as many as there are."""
    value, which = torch.unique(rank_Z, return_inverse=True)
    place = torch.arange(rank_Z.numel())
    first = torch.full_like(value, rank_Z.numel()).scatter_reduce_(0, which, place, "amin")
    return rank_Z[first.sort().values[:count]]


def semi_hard(
    similarity_BP: Tensor, pool_P: Tensor, index_B: Tensor, positives: Lists, quantile_Z: Tensor, top_share: float
) -> tuple[Tensor, Tensor]:
    """Q(i): everything but i and P(i), most similar first, the top share of it, at the ranks floor(u R).

    :param similarity_BP: of the anchors with the pool, in the space that ranks.
    :param positives: P(i), members ascending.
    :param quantile_Z: from :func:`rank_quantiles`, on any device.
    :returns: places in the pool by rank (B, R), and how often each was drawn: float32 (B, R).
    """
    anchors, size = similarity_BP.shape
    out_BP = pool_P == index_B[:, None]
    place_X = torch.searchsorted(pool_P, positives.members).clamp_max_(size - 1)
    pooled_X = pool_P[place_X] == positives.members
    out_BP[positives.owner[pooled_X], place_X[pooled_X]] = True
    top = share_of(top_share, size)
    position_BR, found_BR = most_similar(similarity_BP, out_BP, top)
    count_B = found_BR.sum(1)
    rank_BZ = (quantile_Z.to(similarity_BP.device) * count_B[:, None]).long()
    drawn_BZ = (count_B > 0)[:, None].expand_as(rank_BZ).to(torch.int32)
    times_BR = torch.zeros(anchors, top, dtype=torch.int32, device=similarity_BP.device)
    return position_BR, times_BR.scatter_add_(1, rank_BZ, drawn_BZ).float()
