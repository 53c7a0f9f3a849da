"""Options of the objective of pretraining: their defaults, ranges and choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgcl_cli.config.base import Options, option
from sgcl_cli.errors import ConfigError

BaseName = Literal["npid", "moco"]
Agreement = Literal["all", "any"]
NegativeLaw = Literal["auto", "beta", "hardest", "uniform"]
Ranking = Literal["h", "v"]
BankDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """Options of the objective; those that are None follow from the number of patches (``sgcl_cli.method.resolve``)."""

    base: BaseName = option(
        "npid",
        "Keys of the self term: a memory bank (npid), or a momentum encoder and a queue (moco).",
        panel="Objective",
    )
    queue: int | None = option(
        None, "Length of MoCo's queue; default: min(65536, N / 2), a multiple of the batch.", low=1, panel="Objective"
    )
    key_momentum: float = option(0.999, "Momentum of MoCo's key encoder.", low=0, high=1, panel="Objective")
    projection: int = option(128, "Dimensions of the projected embedding v.", low=2, panel="Objective")
    temperature: float = option(0.2, "tau: temperature of the self and inner terms.", above=0, panel="Objective")
    spatial_temperature: float = option(0.07, "T: temperature of the spatial term.", above=0, panel="Objective")
    radius: float = option(
        3.0, "R: spatial neighbours are nearer than this many patch widths.", above=0, panel="Objective"
    )
    auxiliary: int = option(1, "a: number of auxiliary anchors for propagation.", low=0, panel="Objective")
    neighbours: int | None = option(
        None,
        "k: nearest bank entries considered for propagation; default: min(4096, 0.6 % of N).",
        low=1,
        panel="Objective",
    )
    clusters: int | None = option(None, "Clusters of each k-means run; default: from N.", low=2, panel="Objective")
    clusterings: int = option(3, "C: number of independent k-means runs.", low=1, panel="Objective")
    agreement: Agreement = option(
        "all", "In how many of these runs two patches must share a cluster to be positives.", panel="Objective"
    )
    uniform_negatives: int | None = option(
        None, "K: uniform negatives of the self term; default: min(65536, N - 1).", low=1, panel="Objective"
    )
    negatives: int | None = option(
        None,
        "Negatives of the spatial term, drawn with replacement; default: as many as --neighbours.",
        low=1,
        panel="Objective",
    )
    negative_law: NegativeLaw = option(
        "auto",
        "Distribution of the similarity ranks of negatives within --top-share; auto: beta from 20,000 patches on, below that "
        "uniform over all.",
        panel="Objective",
    )
    beta_a: float = option(5.0, "First parameter of the Beta distribution.", above=0, panel="Objective")
    beta_b: float = option(15.0, "Second parameter of the Beta distribution.", above=0, panel="Objective")
    top_share: float | None = option(
        None,
        "Fraction of all patches, most similar first, from which negatives are drawn; default: 0.2, or 1 if auto is uniform.",
        above=0,
        high=1,
        panel="Objective",
    )
    ranking: Ranking = option(
        "h", "Embedding by which negatives are ranked: of the encoder (h), or projected (v).", panel="Objective"
    )
    pool: int = option(
        16_384, "Bank rows from which ranks are estimated; exact if N is not larger.", low=2, panel="Objective"
    )
    weight_self: float = option(1.0, "Weight of the self term.", low=0, panel="Objective")
    weight_spatial: float = option(1.0, "Weight of the spatial term.", low=0, panel="Objective")
    weight_inner: float = option(1.0, "Weight of the inner term.", low=0, panel="Objective")
    ramp_epochs: float | None = option(
        None,
        "Epochs over which the spatial term is ramped up; default: min(10, 20 % of the epochs).",
        low=0,
        panel="Objective",
    )
    expansion: bool = option(True, "Use spatial neighbours as positives.", panel="Objective")
    propagation: bool = option(True, "Use similar patches of any slide as positives.", panel="Objective")
    bank_start: Literal["random", "encoded"] = option(
        "encoded",
        "Initial content of the banks: embeddings by the untrained networks (encoded), or random rows, as published (random).",
        panel="Objective",
    )
    bank_momentum: float | None = option(
        None, "Weight of the new row in a bank update; default: 0.5, 1 for moco.", above=0, high=1, panel="Objective"
    )
    bank_dtype: BankDtype = option(
        "float32", "Data type of the banks; bfloat16 halves their memory.", panel="Objective"
    )
    as_released: bool = option(
        False, "Follow the published code where it differs from the published equations.", panel="Objective"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        spatial = self.weight_spatial > 0 and (self.expansion or self.propagation)
        if not (self.weight_self > 0 or self.weight_inner > 0 or spatial):
            raise ConfigError(
                "the objective has no active term, so there is nothing to train on",
                "set --weight-self, --weight-spatial or --weight-inner above 0; the spatial term also needs --expansion or "
                "--propagation",
            )
