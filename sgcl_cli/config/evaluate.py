"""Settings of ``sgcl evaluate``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sgcl_cli.config.base import Config, flag, option
from sgcl_cli.config.choices import AnnotationsOrigin
from sgcl_cli.errors import ConfigError

BAG_MODELS = ("mean", "max", "abmil", "gated-abmil", "clam-sb", "dsmil", "transmil")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of ``sgcl evaluate``."""

    table: ClassVar[str] = "evaluate"
    recipe_field: ClassVar[str] = "protocol"
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgcl": {
            "linear": "sgd",
            "linear_epochs": 100,
            "linear_lr": 0.03,
            "knn_temperature": 0.07,
            "finetune_epochs": 20,
            "finetune_shares": "1,10",
        },
    }

    features: str | None = option(None, "Folder of features.", affects=False, argument=True)
    labels: str | None = option(None, "Table slide_id,label[,patient_id][,site][,split].", affects=False, panel="Data")
    train: str | None = option(None, "Features to fit on; goes with --test.", affects=False, panel="Data")
    test: str | None = option(None, "Features to report on; goes with --train.", affects=False, panel="Data")
    patches: str | None = option(
        None,
        "Folder of the patches, for heatmaps and --finetune; default: where the features say.",
        affects=False,
        panel="Data",
    )
    slides: str | None = option(
        None,
        "Folder of the slides, for heatmaps on those that sgcl tile did not tile.",
        affects=False,
        panel="Data",
    )
    compare: tuple[str, ...] = option(
        (), "Folders of finished evaluations to compare with each other: --compare A B ...", affects=False, panel="Data"
    )
    target: str = option("label", "Column of --labels that holds the target.", panel="Data")
    id: str = option("slide_id", "Column of --labels that names the slides.", panel="Data")
    time: str | None = option(
        None, "Column of --labels with the time to an event, for survival; goes with --event.", panel="Data"
    )
    event: str | None = option(
        None, "Column of --labels that says whether it happened: 1, or 0 for censored.", panel="Data"
    )
    level: Literal["auto", "slide", "patch"] = option("auto", "What is predicted: slides or patches.", panel="Data")
    task: Literal["auto", "binary", "multiclass", "regression", "survival"] = option(
        "auto", "Kind of target.", panel="Data"
    )
    allow_missing: bool = option(
        False, "Go on where more than 5 % of the labelled slides have no features.", panel="Data"
    )

    protocol: Literal["sgcl"] | None = option(
        None,
        "Named settings, below what TOML and flags say: sgcl for the paper's; --print-config shows them.",
        affects=False,
        panel="Protocol",
    )
    models: str | None = option(None, f"Bag models on slides, by comma: {','.join(BAG_MODELS)}.", panel="Protocol")
    cv: Literal["patient", "site"] = option(
        "patient", "What folds keep together: patients, or sites, each left out once.", panel="Protocol"
    )
    splits: str | None = option(
        None, "Division to use: our splits.csv, CLAM's splits, or a table slide_id,split.", affects=False, panel="Data"
    )
    folds: int | None = option(
        None,
        "Folds of the patient-grouped cross-validation; default: 5, fewer where a fold would hold under 4 patients of a class.",
        low=2,
        high=50,
        panel="Protocol",
    )
    seeds: int = option(
        3, "Fits of each bag model in each fold; predictions are averaged.", low=1, high=1000, panel="Protocol"
    )
    bag_sample: int | None = option(
        None, "Patches drawn of each training slide every epoch; default: all.", low=1, high=10**7, panel="Protocol"
    )
    label_efficiency: bool = option(
        False, "Also fit on 1, 10 and 100 % of the fitted patients, repeatedly.", panel="Protocol"
    )
    refit: bool = option(
        False, "Fit once more on all patients, after the estimate, for sgcl predict.", panel="Protocol"
    )
    validation: float = option(
        0.2, "Share of the training patients kept for choosing settings.", above=0, below=1, panel="Protocol"
    )
    linear: Literal["path", "sgd"] = option(
        "path",
        "Linear model of classes: path chooses C on validation; sgd has a fixed schedule, a tenth of the rate after 60 and 80 %.",
        panel="Protocol",
    )
    linear_epochs: int = option(100, "Epochs of --linear sgd.", low=1, high=10**6, panel="Protocol")
    linear_lr: float = option(0.03, "Learning rate of --linear sgd.", above=0, panel="Protocol")
    knn_k: int | None = option(
        None,
        "Neighbours of the kNN probe; default: 10, 20, 100 or 200, whichever suits validation.",
        low=1,
        high=10**6,
        panel="Protocol",
    )
    knn_temperature: float = option(0.07, "Temperature of the kNN probe's votes.", above=0, panel="Protocol")
    mil_epochs: int = option(60, "Most epochs of the attention model.", low=1, high=10**6, panel="Protocol")
    mil_patience: int = option(
        12, "Epochs without a better validation loss before it stops.", low=1, high=10**6, panel="Protocol"
    )
    mil_lr: float = option(3e-4, "Learning rate of the attention model.", above=0, panel="Protocol")
    mil_hidden: int = option(128, "Width of the attention model.", low=1, high=2**14, panel="Protocol")
    mil_dropout: float = option(0.25, "Dropout of the attention model.", low=0, below=1, panel="Protocol")
    bootstrap: int = option(
        2000, "Resamples of the patients for intervals; 0 for none.", low=0, high=10**6, panel="Protocol"
    )
    confidence: float = option(0.95, "Coverage of the intervals.", above=0, below=1, panel="Protocol")

    finetune: str | None = option(
        None,
        "Run of sgcl pretrain: fit its encoder on the patches themselves, beside one from scratch; patch level.",
        affects=False,
        panel="Fine-tuning",
    )
    finetune_shares: str = option(
        "1,10,100", "Per cent of the fitted patients whose labels are used, by comma.", panel="Fine-tuning"
    )
    finetune_epochs: int = option(
        20, "Epochs of fine-tuning; validation chooses one of them.", low=1, high=10**6, panel="Fine-tuning"
    )
    finetune_lr: str = option(
        "0.003,0.03", "Highest learning rates, by comma; validation chooses one of them.", panel="Fine-tuning"
    )
    finetune_batch: int = option(64, "Patches in a batch of fine-tuning.", low=2, high=2**16, panel="Fine-tuning")
    finetune_seeds: int = option(
        1, "Fits of each network in each fold; predictions are averaged.", low=1, high=1000, panel="Fine-tuning"
    )

    dense: str | None = option(
        None, "Folder of masks: tell pixels apart by the encoder's feature map.", affects=False, panel="Dense"
    )
    encoder: str | None = option(
        None, "Encoder for --dense: what sgcl embed takes, if it has a feature map.", affects=False, panel="Dense"
    )
    mask_values: str | None = option(
        None, "Classes of the masks' values, 255=tumour,0=other; default: each value is one.", panel="Dense"
    )
    mask_origin: AnnotationsOrigin = option(
        "slide",
        "What the masks cover on slides with openslide.bounds-*: the whole slide, or the scanned part, as QuPath exports it.",
        panel="Dense",
    )
    ignore: int | None = option(None, "Value of the masks that is no class.", low=0, high=2**32 - 1, panel="Dense")
    dense_layer: str | None = option(
        None, "Whose map is read: layer1 to layer4, or block1 to block12; default: the last.", panel="Dense"
    )
    dense_pixels: int = option(
        8000, "Labelled pixels a slide that the head is fitted on.", low=1, high=10**7, panel="Dense"
    )

    @property
    def bag_models(self) -> tuple[str, ...]:
        """The bag models asked for, gated-abmil where nothing is said."""
        return tuple(name.strip() for name in (self.models or "gated-abmil").split(","))

    @property
    def tuned_shares(self) -> tuple[float, ...]:
        """``--finetune-shares`` as shares of 1, ascending."""
        return tuple(share / 100 for share in _numbers("finetune_shares", self.finetune_shares, 100))

    @property
    def tuned_rates(self) -> tuple[float, ...]:
        """``--finetune-lr`` as numbers, ascending."""
        return _numbers("finetune_lr", self.finetune_lr, math.inf)

    def __post_init__(self) -> None:
        super().__post_init__()
        _numbers("finetune_shares", self.finetune_shares, 100)
        _numbers("finetune_lr", self.finetune_lr, math.inf)
        unknown = [name for name in self.bag_models if name not in BAG_MODELS]
        if unknown:
            raise ConfigError(f"--models: there is no '{unknown[0]}'", f"known: {', '.join(BAG_MODELS)}")
        if (self.time is None) != (self.event is None):
            raise ConfigError("--time and --event go together", "name both columns")
        if self.time is not None and self.task not in ("auto", "survival"):
            raise ConfigError(f"--task {self.task} has no --time", "leave --task or --time and --event out")
        if self.splits is not None and self.cv == "site":
            raise ConfigError("--splits and --cv site both divide the slides", "give one of them")
        if self.finetune is not None:
            self._check_finetune()
        if self.compare:
            if self.features or self.train or self.test or self.labels:
                raise ConfigError("--compare takes finished evaluations alone", "leave features and labels out")
            return
        if self.dense:
            if self.features or self.train or self.test:
                raise ConfigError("--dense looks at patches, not features", "leave features out")
            if self.splits is not None:
                raise ConfigError("--splits does not go with --dense", "slides, patients or sites are left out in turn")
            return
        pair = self.train is not None or self.test is not None
        if pair and (self.train is None or self.test is None):
            raise ConfigError("--train and --test go together", "give both, or FEATURES with --labels")
        if pair and (self.splits is not None or self.cv == "site"):
            raise ConfigError("--train and --test are a division already", "leave --splits and --cv site out")
        if pair == (self.features is not None):
            raise ConfigError(
                "give either FEATURES [--labels] or --train A --test B",
                "example: sgcl evaluate features/ --labels labels.csv --out results/",
            )

    def _check_finetune(self) -> None:
        if self.compare or self.dense:
            other = "--compare" if self.compare else "--dense"
            raise ConfigError(f"--finetune does not go with {other}", "it fits networks on labelled patches")
        if self.level == "slide":
            raise ConfigError("--finetune is at patch level, and --level is slide", "leave one of them out")


def _numbers(name: str, text: str, most: float) -> tuple[float, ...]:
    """Different numbers above 0, by comma, ascending.

    :raises ConfigError: it is not that.
    """
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and 0 < number <= most for number in numbers):
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise ConfigError(f"{flag(name)} is '{text}'", f"give numbers greater than 0{bound}, by comma")
    return tuple(numbers)
