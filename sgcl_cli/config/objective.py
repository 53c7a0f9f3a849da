"""Options of the objective of pretraining: the only place of their defaults, ranges and choices."""

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
    """The objective as given: what is None follows from the number of patches (``sgcl_cli.method.resolve``)."""

    base: BaseName = option(
        "npid", "Where the self term's keys come from: the bank, or a momentum encoder and a queue.", panel="Objective"
    )
    queue: int | None = option(
        None, "Keys in MoCo's queue; default min(65536, N / 2), a multiple of the batch.", low=1, panel="Objective"
    )
    key_momentum: float = option(0.999, "Momentum of MoCo's key encoder.", low=0, high=1, panel="Objective")
    projection: int = option(128, "Dimensions of the projected embedding v.", low=2, panel="Objective")
    temperature: float = option(0.2, "tau of the self and inner terms.", above=0, panel="Objective")
    spatial_temperature: float = option(0.07, "T of the spatial term.", above=0, panel="Objective")
    radius: float = option(3.0, "R: spatial neighbours lie nearer than this many patches.", above=0, panel="Objective")
    auxiliary: int = option(1, "a: auxiliary anchors for propagation.", low=0, panel="Objective")
    neighbours: int | None = option(
        None,
        "k: nearest bank entries considered for propagation; default min(4096, 0.6 % of N).",
        low=1,
        panel="Objective",
    )
    clusters: int | None = option(None, "Clusters of a k-means run; default from N.", low=2, panel="Objective")
    clusterings: int = option(3, "C: independent k-means runs that must agree.", low=1, panel="Objective")
    agreement: Agreement = option("all", "How many clusterings must agree.", panel="Objective")
    uniform_negatives: int | None = option(
        None, "K: uniform negatives of the self term; default min(65536, N - 1).", low=1, panel="Objective"
    )
    negatives: int | None = option(
        None,
        "Draws of the spatial term's negatives, with replacement; default as many as --neighbours.",
        low=1,
        panel="Objective",
    )
    negative_law: NegativeLaw = option(
        "auto",
        "Law of the negatives' ranks within the top share; auto: beta from 20,000 patches on, below that uniform over all.",
        panel="Objective",
    )
    beta_a: float = option(5.0, "First parameter of the Beta law.", above=0, panel="Objective")
    beta_b: float = option(15.0, "Second parameter of the Beta law.", above=0, panel="Objective")
    top_share: float | None = option(
        None,
        "Share of all patches, most similar first, that negatives come from; default 0.2, or 1 where auto is uniform.",
        above=0,
        high=1,
        panel="Objective",
    )
    ranking: Ranking = option("h", "Space in which negatives are ranked.", panel="Objective")
    pool: int = option(
        16_384, "Bank rows on which ranks are estimated; exact when N is not larger.", low=2, panel="Objective"
    )
    weight_self: float = option(1.0, "Weight of the self term.", low=0, panel="Objective")
    weight_spatial: float = option(1.0, "Weight of the spatial term.", low=0, panel="Objective")
    weight_inner: float = option(1.0, "Weight of the inner term.", low=0, panel="Objective")
    ramp_epochs: float | None = option(
        None,
        "Epochs over which the spatial term is ramped up; default min(10, 20 % of the epochs).",
        low=0,
        panel="Objective",
    )
    expansion: bool = option(True, "Take spatial neighbours as positives.", panel="Objective")
    propagation: bool = option(True, "Take look-alikes on any slide as positives.", panel="Objective")
    bank_start: Literal["random", "encoded"] = option(
        "encoded",
        "What banks hold before the first step: what the untrained networks make of the patches, or random rows as published.",
        panel="Objective",
    )
    bank_momentum: float | None = option(
        None, "Share of the new row when a bank moves; default 0.5, and 1 for moco.", above=0, high=1, panel="Objective"
    )
    bank_dtype: BankDtype = option(
        "float32", "How banks are stored; bfloat16 halves them, for very large corpora.", panel="Objective"
    )
    as_released: bool = option(
        False, "Follow the published code where it departs from its equations.", panel="Objective"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        spatial = self.weight_spatial > 0 and (self.expansion or self.propagation)
        if not (self.weight_self > 0 or self.weight_inner > 0 or spatial):
            raise ConfigError(
                "no term of the objective has a weight, so there is nothing to train on",
                "give --weight-self, --weight-spatial or --weight-inner more than 0; the spatial term also needs --expansion or "
                "--propagation",
            )
