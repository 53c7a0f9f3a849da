"""Measures of collapse: spread, mean similarity of pairs, effective rank.

Letters: B rows of a batch or of a sample, D their size, N rows of a bank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sgcl_cli.method.streams import generator, strips

_SAMPLE = 4_096
_EPSILON = 1e-7


def spread(row_BD: Tensor) -> Tensor:
    """sqrt(D) mean_d std_b(v_bd), for unit rows: 1 for a uniform distribution on the sphere, 0 if all are equal.

    The measure of collapse of Chen and He (SimSiam, CVPR 2021), scaled so that it does not depend on D.
    """
    row_BD = row_BD.detach().float()
    mean: Tensor = row_BD.std(dim=0, correction=0).mean()
    return mean * math.sqrt(row_BD.shape[1])


def pair_similarity(row_BD: Tensor) -> Tensor:
    """The mean of v_b . v_c over all pairs b != c of unit rows: ( |sum_b v_b|^2 - B ) / ( B (B - 1) )."""
    row_BD = row_BD.detach().float()
    count = len(row_BD)
    return (row_BD.sum(0).square().sum() - row_BD.square().sum()) / max(1, count * (count - 1))


def effective_rank(row_BD: Tensor) -> Tensor:
    """RankMe = exp( - sum_k p_k log p_k ),  p_k = s_k / sum_j s_j + 1e-7, with s_k the singular values of the rows.

    From 1 (all rows on one line) to min(B, D). Garrido, Balestriero, Najman, LeCun: RankMe, ICML 2023, equation 1.
    """
    value_K = torch.linalg.svdvals(row_BD.detach().float())
    share_K = value_K / value_K.sum().clamp_min(_EPSILON) + _EPSILON
    return torch.exp(-(share_K * share_K.log()).sum())


def bank_sample(row_ND: Tensor, seed: int, epoch: int, most: int = _SAMPLE) -> Tensor:
    """Rows of a bank as float32, (B, D): all of them, or a sample of ``most`` determined by (seed, epoch)."""
    n = len(row_ND)
    if n <= most:
        return row_ND.float()
    return row_ND.index_select(0, strips(n, most, generator(seed, "health", epoch)).to(row_ND.device)).float()
