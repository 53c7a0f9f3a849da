"""Every number of the objective, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from sgcl_cli.errors import ConfigError, TrainingError

Base = Literal["npid", "moco"]
Agreement = Literal["all", "any"]
NegativeLaw = Literal["beta", "hardest", "uniform", "auto"]
Ranking = Literal["h", "v"]
BankDtype = Literal["float32", "bfloat16"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "base": get_args(Base),
    "agreement": get_args(Agreement),
    "negative_law": get_args(NegativeLaw),
    "ranking": get_args(Ranking),
    "bank_dtype": get_args(BankDtype),
}
_POSITIVE = ("temperature", "spatial_temperature", "radius", "clusterings", "beta_a", "beta_b", "pool")
_POSITIVE_OR_UNSET = ("neighbours", "clusters", "uniform_negatives", "negatives", "queue")
_AT_LEAST_ZERO = ("weight_self", "weight_spatial", "weight_inner", "auxiliary")

_MOST_UNIFORM = 65_536
_MOST_NEIGHBOURS = 4_096
_MOST_CLUSTERS = 1_000
_MOST_QUEUED = 65_536
_NEIGHBOUR_SHARE = 0.006
_PATCHES_PER_CLUSTER = 64
_SEMI_HARD_FROM = 20_000
_HARD_SHARE = 0.2
_LONGEST_RAMP = 10.0
_RAMP_SHARE = 0.2


@dataclass(frozen=True)
class Settings:
    """Every ablation axis of the method; ``None`` is resolved from the number of patches by :meth:`resolve`.

    base: where L_self takes its keys from: the bank (npid) or a momentum encoder and a queue (moco).
    temperature: tau of L_self and L_in.    spatial_temperature: T of L_sp.
    radius: R in patch widths, strict.    auxiliary: a.    neighbours: k.    clusters, clusterings: k-means, and C of it.
    agreement: whether all clusterings or any one must put a look-alike into the cluster.
    uniform_negatives: K.    negatives: draws among the ranks of the top share, with replacement; unset: as many as k, the
    paper's ratio.    negative_law: their law over the top share; auto: beta from 20,000 patches on, below that uniform over
    all patches.
    top_share: share of N that counts as hard (unset: 0.2, or 1 where auto chose uniform).    ranking: the space that
    ranks them.
    weight_*: of the three terms.    ramp_epochs: length of w(e).
    bank_momentum: share of the new row in a bank's move (unset: 0.5 for npid, 1 for moco).
    queue: MoCo's.    key_momentum: of MoCo's encoder, which the caller keeps.
    pool: rows on which ranks and thresholds are estimated; exact when N is at most this.
    expansion, propagation: whether neighbours and look-alikes are positives; without neighbours there are no
    auxiliary anchors.    as_released: the three departures of the published code that can be switched on.
    """

    base: Base = "npid"
    temperature: float = 0.2
    spatial_temperature: float = 0.07
    radius: float = 3.0
    auxiliary: int = 1
    neighbours: int | None = None
    clusters: int | None = None
    clusterings: int = 3
    agreement: Agreement = "all"
    uniform_negatives: int | None = None
    negatives: int | None = None
    negative_law: NegativeLaw = "beta"
    beta_a: float = 5.0
    beta_b: float = 15.0
    top_share: float | None = None
    ranking: Ranking = "h"
    weight_self: float = 1.0
    weight_spatial: float = 1.0
    weight_inner: float = 1.0
    ramp_epochs: float | None = None
    bank_momentum: float | None = None
    queue: int | None = None
    key_momentum: float = 0.999
    pool: int = 16_384
    expansion: bool = True
    propagation: bool = True
    as_released: bool = False
    bank_dtype: BankDtype = "float32"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(choices))
        for name in (*_POSITIVE, *_POSITIVE_OR_UNSET):
            value = getattr(self, name)
            unset = value is None and name in _POSITIVE_OR_UNSET
            _require(unset or (math.isfinite(value) and value > 0), name, value, "above 0")
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "0 or more")
        _require(self.ramp_epochs is None or self.ramp_epochs >= 0, "ramp_epochs", self.ramp_epochs, "0 or more")
        for name in ("top_share", "bank_momentum"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= 1, name, value, "above 0 and at most 1")
        _require(0 <= self.key_momentum <= 1, "key_momentum", self.key_momentum, "from 0 to 1")

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
        return max(1, (self.uniform_negatives or 0) // 4)

    def resolve(self, n: int, epochs: int, batch: int) -> tuple[Settings, list[str]]:
        """Give every open count its value for N = n patches.

        :param n: patches in the corpus, at least 2.
        :param epochs: length of the whole training; bounds the default ramp.
        :param batch: anchors per step over all ranks; the queue is a multiple of it.
        :returns: a copy without ``None``, and one warning per value set by hand that had to be clamped.
        :raises TrainingError: when there are too few patches to contrast.
        """
        if n < 2:
            raise TrainingError(f"the corpus has {n} patches; contrasting needs at least 2", "give more slides")
        warnings: list[str] = []

        def count(name: str, default: int, most: int) -> int:
            value = getattr(self, name)
            if value is None:
                return min(default, most)
            if value > most:
                warnings.append(f"{name} = {value:,} is more than {n:,} patches allow: {most:,} is used")
            return int(min(value, most))

        neighbours = count("neighbours", min(_MOST_NEIGHBOURS, math.ceil(_NEIGHBOUR_SHARE * n - 1e-9)), n - 1)
        easy = self.negative_law == "auto" and n < _SEMI_HARD_FROM
        law: NegativeLaw = self.negative_law if self.negative_law != "auto" else "uniform" if easy else "beta"
        longest = max(n // 2 // batch, 1) * batch
        queue = count("queue", _MOST_QUEUED, longest)
        whole = max(queue // batch, 1) * batch
        if self.queue is not None and whole != queue:
            warnings.append(f"queue = {queue:,} is no multiple of the batch of {batch:,}: {whole:,} is used")
        resolved = replace(
            self,
            uniform_negatives=count("uniform_negatives", _MOST_UNIFORM, n - 1),
            neighbours=neighbours,
            clusters=count("clusters", min(_MOST_CLUSTERS, max(10, n // _PATCHES_PER_CLUSTER)), n),
            negatives=self.negatives or neighbours,
            negative_law=law,
            top_share=self.top_share or (1.0 if easy else _HARD_SHARE),
            queue=whole,
            ramp_epochs=min(_LONGEST_RAMP, _RAMP_SHARE * epochs) if self.ramp_epochs is None else self.ramp_epochs,
            bank_momentum=self.bank_momentum or (1.0 if self.base == "moco" else 0.5),
        )
        return resolved, warnings


def require_resolved(settings: Settings) -> None:
    """Refuse settings that :meth:`Settings.resolve` has not completed."""
    unset = [field.name for field in fields(settings) if getattr(settings, field.name) is None]
    assert not unset and settings.negative_law != "auto", f"settings must be resolved first: {', '.join(unset)}"


def share_of(share: float, n: int) -> int:
    """floor(share N), at least 1; a product that only rounding keeps below a whole number counts as that number."""
    return max(1, math.floor(share * n + 1e-9))


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value} is not allowed", f"it must be {allowed}")
