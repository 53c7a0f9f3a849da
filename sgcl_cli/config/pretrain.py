"""Settings of ``sgcl pretrain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, flag, option
from sgcl_cli.config.encoders import check_architecture
from sgcl_cli.errors import ConfigError

REFERENCE_BATCH = 128  # of the published recipe, to which its learning rate belongs
_MOST_ADAMW_LR = 0.01
_OLD_RECIPES = {
    "sslp": "it is now sgcl-no-inner, which ranks negatives as sgcl does; add --ranking v for what it was. "
    "It never was the SSLP that was released (docs/method.md)"
}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Config):
    """Settings of ``sgcl pretrain``; the defaults are those of the published recipe (docs/method.md)."""

    table: ClassVar[str] = "pretrain"

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgcl": {},
        "sgcl-moco": {"base": "moco"},
        "sgcl-no-inner": {"weight_inner": 0.0},
        "npid": {"weight_spatial": 0.0, "weight_inner": 0.0},
        "npid-inner": {"weight_spatial": 0.0},
        "moco": {"base": "moco", "weight_spatial": 0.0, "weight_inner": 0.0},
        "sgcl-paper": {
            "encoder": "resnet18",
            "epochs": 100,
            "batch": 128,
            "lr": 0.015,
            "uniform_negatives": 65_536,
            "neighbours": 4_096,
            "clusters": 1_000,
            "negatives": 4_096,
            "negative_law": "beta",
            "top_share": 0.2,
            "ramp_epochs": 10.0,
            "bank_start": "random",
        },
    }

    patches: str = option(REQUIRED, "Folder that sgcl tile wrote.", affects=False, argument=True)
    recipe: str = option(
        "sgcl",
        "Named settings, below what TOML and flags say: sgcl, sgcl-moco, sgcl-no-inner, npid, npid-inner, moco or sgcl-paper; "
        "--print-config shows them.",
        affects=False,
    )
    encoder: str = option(
        "resnet18",
        "Architecture: resnet18, resnet34, resnet50, vit_tiny, vit_small, timm:NAME or PACKAGE.MODULE:FUNCTION.",
    )
    init: str | None = option(
        None, "Weights to start from: torchvision's, timm's, or a run of sgcl pretrain; default: random.", affects=False
    )
    epochs: int = option(100, "Passes over the patches.", low=1, high=10**6, panel="Optimisation")
    batch: int = option(128, "Patches in a batch, over all GPUs.", low=2, high=2**16, panel="Optimisation")
    optimiser: Literal["sgd", "adamw"] = option(
        "sgd", "Optimiser: sgd, or adamw for vision transformers.", panel="Optimisation"
    )
    lr: float = option(0.015, "Learning rate at the start; cosine to 0.", above=0, panel="Optimisation")
    lr_scale: Literal["none", "linear"] = option(
        "none", "Rule for --lr: none, as given for any batch; linear, times --batch / 128.", panel="Optimisation"
    )
    momentum: float = option(0.9, "Momentum of SGD.", low=0, below=1, panel="Optimisation")
    weight_decay: float = option(1e-4, "Weight decay; adamw spares norms and biases.", low=0, panel="Optimisation")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU.", panel="Optimisation"
    )
    sync_bn: bool = option(False, "Batch norm over the batches of all GPUs; CUDA only.", panel="Optimisation")

    view: int | None = option(
        None,
        "Side of the global view in pixels; default 224 for patches of 256, in proportion.",
        low=16,
        high=8192,
        panel="Views",
    )
    corner: int | None = option(
        None,
        "Side of a corner view in pixels; default 96 for patches of 256, in proportion.",
        low=8,
        high=8192,
        panel="Views",
    )
    crop_low: float = option(0.2, "Smallest area of the global crop.", above=0, high=1, panel="Views")
    crop_high: float = option(1.0, "Largest area of the global crop.", above=0, high=1, panel="Views")
    corner_crop_low: float = option(0.2, "Smallest area of a quarter's crop.", above=0, high=1, panel="Views")
    corner_crop_high: float = option(0.56, "Largest area of a quarter's crop.", above=0, high=1, panel="Views")
    grayscale: float = option(0.2, "Probability of losing colour.", low=0, high=1, panel="Views")
    brightness: float = option(0.4, "Strength of the brightness jitter.", low=0, high=1, panel="Views")
    contrast: float = option(0.4, "Strength of the contrast jitter.", low=0, high=1, panel="Views")
    saturation: float = option(0.4, "Strength of the saturation jitter.", low=0, high=1, panel="Views")
    hue: float = option(0.4, "Strength of the hue jitter, in turns.", low=0, high=0.5, panel="Views")
    flip: float = option(0.5, "Probability of a horizontal flip.", low=0, high=1, panel="Views")
    vertical_flip: float = option(0.0, "Probability of a vertical flip.", low=0, high=1, panel="Views")
    rotate90: float = option(0.0, "Probability of 1, 2 or 3 quarter turns.", low=0, high=1, panel="Views")
    stain_scale: float = option(
        0.0, "Stain jitter: factors of haematoxylin, eosin and residual, 1 +- this.", low=0, high=1, panel="Views"
    )
    stain_shift: float = option(
        0.0, "Stain jitter: shifts of the same, +- this, in optical density.", low=0, high=1, panel="Views"
    )

    base: Literal["npid", "moco"] = option(
        "npid", "Where the self term's keys come from: the bank, or a momentum encoder and a queue.", panel="Objective"
    )
    queue: int | None = option(
        None, "Keys in MoCo's queue; default min(65536, N / 2), a multiple of the batch.", low=1, panel="Objective"
    )
    key_momentum: float = option(0.999, "Momentum of MoCo's key encoder.", low=0, high=1, panel="Objective")
    projection: int = option(128, "Dimensions of the projected embedding v.", low=2, high=2**14, panel="Objective")
    temperature: float = option(0.2, "tau of the self and inner terms.", above=0, panel="Objective")
    spatial_temperature: float = option(0.07, "T of the spatial term.", above=0, panel="Objective")
    radius: float = option(3.0, "R: spatial neighbours lie nearer than this many patches.", above=0, panel="Objective")
    auxiliary: int = option(1, "a: auxiliary anchors for propagation.", low=0, high=10**4, panel="Objective")
    neighbours: int | None = option(
        None,
        "k: nearest bank entries considered for propagation; default min(4096, 0.6 % of N).",
        low=1,
        panel="Objective",
    )
    clusters: int | None = option(None, "Clusters of a k-means run; default from N.", low=2, panel="Objective")
    clusterings: int = option(3, "C: independent k-means runs that must agree.", low=1, high=1000, panel="Objective")
    agreement: Literal["all", "any"] = option("all", "How many clusterings must agree.", panel="Objective")
    uniform_negatives: int | None = option(
        None, "K: uniform negatives of the self term; default min(65536, N - 1).", low=1, panel="Objective"
    )
    negatives: int | None = option(
        None,
        "Draws of the spatial term's negatives, with replacement; default as many as --neighbours.",
        low=1,
        panel="Objective",
    )
    negative_law: Literal["auto", "beta", "hardest", "uniform"] = option(
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
    ranking: Literal["h", "v"] = option("h", "Space in which negatives are ranked.", panel="Objective")
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
    bank_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "How banks are stored; bfloat16 halves them, for very large corpora.", panel="Objective"
    )
    as_released: bool = option(
        False, "Follow the published code where it departs from its equations.", panel="Objective"
    )

    probe: str | None = option(
        None,
        "Score the encoder by kNN while it trains, on 'labels' (those of the patches) or on a folder of labelled patches or "
        "of class folders of images; writes best.pt.",
        affects=False,
        panel="Watching",
    )
    probe_every: int = option(1, "Epochs between two probes.", low=1, affects=False, panel="Watching")
    probe_groups: str | None = option(
        None,
        "Table of who must not judge whom in the probe: slide_id,patient_id for patches, name,group for images.",
        affects=False,
        panel="Watching",
    )
    log_every: int = option(
        20,
        "Steps between two readings of the GPU's numbers; every step is logged.",
        low=1,
        affects=False,
        panel="Watching",
    )
    tensorboard: bool = option(
        False, "Write the numbers for TensorBoard as well, into OUT/tensorboard.", affects=False, panel="Watching"
    )

    workers: int | None = option(
        None, "Processes that decode patches; default: from the cores.", low=0, high=1024, affects=False, panel="Run"
    )
    checkpoint_minutes: float = option(
        10.0,
        "Minutes between checkpoints, besides the one after each epoch.",
        above=0,
        high=1e6,
        affects=False,
        panel="Run",
    )
    keep: int = option(
        0,
        "Checkpoints of the last N epochs kept as epoch-0001.pt and so on, besides last.pt.",
        low=0,
        affects=False,
        panel="Run",
    )
    compile: bool = option(
        False,
        "Compile the encoder (torch.compile): slower to start, faster steps on a GPU.",
        affects=False,
        panel="Run",
    )
    grace: float = option(
        25.0,
        "Seconds after a SIGTERM in which a checkpoint may be written.",
        low=0,
        high=1e6,
        affects=False,
        panel="Run",
    )

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule starts from: --lr under the rule of --lr-scale."""
        return self.lr * self.batch / REFERENCE_BATCH if self.lr_scale == "linear" else self.lr

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe not in self.recipes:
            hint = _OLD_RECIPES.get(self.recipe, f"choose one of: {', '.join(self.recipes)}")
            raise ConfigError(f"there is no recipe {self.recipe!r}", hint)
        if self.probe_groups is not None and self.probe is None:
            raise ConfigError("--probe-groups is for --probe", "add --probe labels or --probe FOLDER")
        for low, high in (("crop_low", "crop_high"), ("corner_crop_low", "corner_crop_high")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{flag(low)} {getattr(self, low)} is above {flag(high)} {getattr(self, high)}")
        check_architecture("encoder", self.encoder)
        if self.optimiser == "adamw" and self.peak_lr > _MOST_ADAMW_LR:
            raise ConfigError(
                f"a learning rate of {self.peak_lr:g} is one for SGD; AdamW's steps do not shrink with the gradient",
                f"give --lr of at most {_MOST_ADAMW_LR}; 5e-4 with --weight-decay 0.05 is usual",
            )
