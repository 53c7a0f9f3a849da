"""Settings of ``sgcl pretrain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, option
from sgcl_cli.config.choices import Precision
from sgcl_cli.config.encoders import ARCHITECTURES, check_architecture
from sgcl_cli.config.objective import ObjectiveOptions
from sgcl_cli.config.views import ViewOptions
from sgcl_cli.errors import ConfigError

REFERENCE_BATCH = 128  # of the published recipe, to which its learning rate belongs
_MOST_ADAMW_LR = 0.01
RECIPES: Mapping[str, Mapping[str, Any]] = {
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
_OLD_RECIPES = {
    "sslp": "it is now sgcl-no-inner, which ranks negatives as sgcl does; add --ranking v for what it was. "
    "It never was the SSLP that was released (docs/method.md)"
}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Config):
    """What is trained, on which patches, and by which steps."""

    patches: str = option(REQUIRED, "Folder that sgcl tile wrote.", affects=False, argument=True)
    recipe: str = option(
        "sgcl",
        f"Named settings, below what TOML and flags say: {', '.join(RECIPES)}; --print-config shows them.",
        affects=False,
    )
    encoder: str = option(
        "resnet18",
        f"Architecture: {', '.join(ARCHITECTURES)}, timm:NAME or PACKAGE.MODULE:FUNCTION.",
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
    precision: Precision = option(
        "auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU.", panel="Optimisation"
    )
    sync_bn: bool = option(False, "Batch norm over the batches of all GPUs; CUDA only.", panel="Optimisation")

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule starts from: --lr under the rule of --lr-scale."""
        return self.lr * self.batch / REFERENCE_BATCH if self.lr_scale == "linear" else self.lr


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ObjectiveOptions, ViewOptions, TrainingOptions):
    """Settings of ``sgcl pretrain``; the defaults are those of the published recipe (docs/method.md)."""

    table: ClassVar[str] = "pretrain"

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES

    probe: str | None = option(
        None,
        "Score the encoder by kNN while it trains, on 'labels' (those of the patches) or on a folder of labelled patches or "
        "of class folders of images; writes best.pt.",
        affects=False,
        panel="Monitoring",
    )
    probe_every: int = option(1, "Epochs between two probes.", low=1, affects=False, panel="Monitoring")
    probe_groups: str | None = option(
        None,
        "Table of who must not judge whom in the probe: slide_id,patient_id for patches, name,group for images.",
        affects=False,
        panel="Monitoring",
    )
    log_every: int = option(
        20,
        "Steps between two readings of the GPU's numbers; every step is logged.",
        low=1,
        affects=False,
        panel="Monitoring",
    )
    tensorboard: bool = option(
        False, "Write the numbers for TensorBoard as well, into OUT/tensorboard.", affects=False, panel="Monitoring"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe not in self.recipes:
            hint = _OLD_RECIPES.get(self.recipe, f"choose one of: {', '.join(self.recipes)}")
            raise ConfigError(f"there is no recipe {self.recipe!r}", hint)
        if self.probe_groups is not None and self.probe is None:
            raise ConfigError("--probe-groups is for --probe", "add --probe labels or --probe FOLDER")
        check_architecture("encoder", self.encoder)
        if self.optimiser == "adamw" and self.peak_lr > _MOST_ADAMW_LR:
            raise ConfigError(
                f"a learning rate of {self.peak_lr:g} is one for SGD; AdamW's steps do not shrink with the gradient",
                f"give --lr of at most {_MOST_ADAMW_LR}; 5e-4 with --weight-decay 0.05 is usual",
            )
