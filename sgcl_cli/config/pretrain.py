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

REFERENCE_BATCH = 128  # batch of the published recipe, for which its learning rate was chosen
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
    "sslp": "it is now called sgcl-no-inner and ranks negatives as sgcl does; --ranking v restores the former ranking. "
    "It never was the released SSLP (docs/method.md)"
}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Config):
    """Settings of the patches, the encoder and the optimisation."""

    patches: str = option(REQUIRED, "Folder written by sgcl tile.", affects=False, argument=True)
    recipe: str = option(
        "sgcl",
        f"Named settings, overridden by TOML and flags: {', '.join(RECIPES)}; --print-config shows them.",
        affects=False,
    )
    encoder: str = option(
        "resnet18",
        f"Architecture: {', '.join(ARCHITECTURES)}, timm:NAME or PACKAGE.MODULE:FUNCTION.",
    )
    init: str | None = option(
        None, "Initial weights: a torchvision or timm file, or a run of sgcl pretrain; default: random.", affects=False
    )
    epochs: int = option(100, "Passes over all patches.", low=1, high=10**6, panel="Optimisation")
    batch: int = option(128, "Patches per batch, over all GPUs.", low=2, high=2**16, panel="Optimisation")
    optimiser: Literal["sgd", "adamw"] = option(
        "sgd", "Optimiser; adamw suits vision transformers.", panel="Optimisation"
    )
    lr: float = option(0.015, "Initial learning rate; it decays to 0 by a cosine.", above=0, panel="Optimisation")
    lr_scale: Literal["none", "linear"] = option(
        "none", "Scaling of --lr: none, or linear, by --batch / 128.", panel="Optimisation"
    )
    momentum: float = option(0.9, "Momentum of SGD.", low=0, below=1, panel="Optimisation")
    weight_decay: float = option(1e-4, "Weight decay; adamw leaves out norms and biases.", low=0, panel="Optimisation")
    precision: Precision = option(
        "auto", "Arithmetic of the encoder; auto: bf16 on CUDA, fp32 on CPU.", panel="Optimisation"
    )
    sync_bn: bool = option(False, "Normalise batches over all GPUs (SyncBatchNorm); CUDA only.", panel="Optimisation")

    @property
    def peak_lr(self) -> float:
        """Initial learning rate of the schedule: --lr scaled as --lr-scale says."""
        return self.lr * self.batch / REFERENCE_BATCH if self.lr_scale == "linear" else self.lr


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ObjectiveOptions, ViewOptions, TrainingOptions):
    """Settings of ``sgcl pretrain``; the defaults are those of the published recipe (docs/method.md)."""

    table: ClassVar[str] = "pretrain"

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES

    probe: str | None = option(
        None,
        "Score the encoder by kNN during training, on 'labels' (those of the patches), a folder of labelled patches, or a "
        "folder of class folders of images; writes best.pt.",
        affects=False,
        panel="Monitoring",
    )
    probe_every: int = option(1, "Epochs between probes.", low=1, affects=False, panel="Monitoring")
    probe_groups: str | None = option(
        None,
        "Table of groups within which the probe takes no neighbours: slide_id,patient_id for patches, name,group for images.",
        affects=False,
        panel="Monitoring",
    )
    log_every: int = option(
        20,
        "Steps between transfers of metrics from the GPU; every step is logged.",
        low=1,
        affects=False,
        panel="Monitoring",
    )
    tensorboard: bool = option(
        False, "Also write the metrics for TensorBoard, to OUT/tensorboard.", affects=False, panel="Monitoring"
    )

    workers: int | None = option(
        None,
        "Processes that decode patches; default: by the number of cores.",
        low=0,
        high=1024,
        affects=False,
        panel="Run",
    )
    checkpoint_minutes: float = option(
        10.0,
        "Minutes between checkpoints, in addition to one after each epoch.",
        above=0,
        high=1e6,
        affects=False,
        panel="Run",
    )
    keep: int = option(
        0,
        "Keep the checkpoints of the last N epochs, as epoch-0001.pt and so on, in addition to last.pt.",
        low=0,
        affects=False,
        panel="Run",
    )
    compile: bool = option(
        False,
        "Compile the encoder with torch.compile: a slower start, faster steps on a GPU.",
        affects=False,
        panel="Run",
    )
    grace: float = option(
        25.0,
        "Seconds after SIGTERM within which a checkpoint may still be written.",
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
            raise ConfigError("--probe-groups needs --probe", "add --probe labels or --probe FOLDER")
        check_architecture("encoder", self.encoder)
        if self.optimiser == "adamw" and self.peak_lr > _MOST_ADAMW_LR:
            raise ConfigError(
                f"a learning rate of {self.peak_lr:g} is one for SGD; AdamW's steps do not shrink with the gradient",
                f"set --lr to at most {_MOST_ADAMW_LR}; 5e-4 with --weight-decay 0.05 is usual",
            )
