"""The settings of the objective for a corpus, all resolved; ``resolve`` makes them from the options."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sgcl_cli.config.objective import Agreement, BankDtype, BaseName, NegativeLaw, Ranking


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the objective, named as the options that they come from.

    :ivar base: source of the keys of L_self.
    :ivar temperature: tau of L_self and L_in.
    :ivar spatial_temperature: T of L_sp.
    :ivar radius: R in patch widths, exclusive.
    :ivar auxiliary: a.
    :ivar neighbours: k.
    :ivar clusters: of one k-means run.
    :ivar clusterings: C, the number of runs.
    :ivar agreement: whether a look-alike must share the cluster in all clusterings or in any.
    :ivar uniform_negatives: K.
    :ivar negatives: draws among the ranks of the top share, with replacement.
    :ivar negative_law: distribution of these draws over the top share, never "auto".
    :ivar beta_a: first parameter of the Beta distribution.
    :ivar beta_b: second parameter of the Beta distribution.
    :ivar top_share: share of N that negatives are drawn from, most similar first.
    :ivar ranking: the space in which negatives are ranked.
    :ivar weight_self: weight of L_self.
    :ivar weight_spatial: weight of L_sp.
    :ivar weight_inner: weight of L_in.
    :ivar ramp_epochs: length of w(e).
    :ivar bank_momentum: share of the new row when a bank is updated.
    :ivar queue: length of MoCo's queue.
    :ivar key_momentum: of MoCo's key networks, which the caller keeps.
    :ivar pool: rows on which ranks and thresholds are estimated; exact if N is not larger.
    :ivar expansion: whether spatial neighbours are positives; if not, there are no auxiliary anchors either.
    :ivar propagation: whether look-alikes are positives.
    :ivar as_released: whether three departures of the published code from its equations are followed.
    :ivar bank_dtype: of the banks.
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
    """floor(share N), at least 1; a product that is below an integer by rounding alone counts as that integer."""
    return max(1, math.floor(share * n + 1e-9))
