"""Every number of the objective over a corpus, with nothing left open; ``resolve`` makes it from the options."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sgcl_cli.config.objective import Agreement, BankDtype, BaseName, NegativeLaw, Ranking


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every ablation axis of the method. The fields are those of the options of the same names, which describe them.

    base: where L_self takes its keys from.
    temperature: tau of L_self and L_in.    spatial_temperature: T of L_sp.
    radius: R in patch widths, strict.    auxiliary: a.    neighbours: k.    clusters, clusterings: k-means, and C of it.
    agreement: whether all clusterings or any one must put a look-alike into the cluster.
    uniform_negatives: K.    negatives: draws among the ranks of the top share, with replacement.
    negative_law: their law over the top share, never "auto".    top_share: share of N that counts as hard.
    ranking: the space that ranks them.
    weight_*: of the three terms.    ramp_epochs: length of w(e).
    bank_momentum: share of the new row in a bank's move.
    queue: MoCo's.    key_momentum: of MoCo's encoder, which the caller keeps.
    pool: rows on which ranks and thresholds are estimated; exact when N is at most this.
    expansion, propagation: whether neighbours and look-alikes are positives; without neighbours there are no
    auxiliary anchors.    as_released: the three departures of the published code that can be switched on.
    """

    base: BaseName
    temperature: float
    spatial_temperature: float
    radius: float
    auxiliary: int
    neighbours: int
    clusters: int
    clusterings: int
    agreement: Agreement
    uniform_negatives: int
    negatives: int
    negative_law: NegativeLaw
    beta_a: float
    beta_b: float
    top_share: float
    ranking: Ranking
    weight_self: float
    weight_spatial: float
    weight_inner: float
    ramp_epochs: float
    bank_momentum: float
    queue: int
    key_momentum: float
    pool: int
    expansion: bool
    propagation: bool
    as_released: bool
    bank_dtype: BankDtype

    def __post_init__(self) -> None:
        assert self.negative_law != "auto", "the law follows from the number of patches"

    @property
    def spatial(self) -> bool:
        """Whether L_sp is part of the objective."""
        return self.weight_spatial > 0 and (self.expansion or self.propagation)

    @property
    def inner(self) -> bool:
        """Whether L_in is part of the objective."""
        return self.weight_inner > 0

    @property
    def clustered(self) -> bool:
        """Whether clusters are needed at all."""
        return self.spatial and self.propagation

    @property
    def corner_negatives(self) -> int:
        """Draws from each of the four corner banks: K / 4, at least one."""
        return max(1, self.uniform_negatives // 4)


def share_of(share: float, n: int) -> int:
    """floor(share N), at least 1; a product that only rounding keeps below a whole number counts as that number."""
    return max(1, math.floor(share * n + 1e-9))
