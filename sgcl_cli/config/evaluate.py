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

    features: str | None = option(None, "Folder of features, as written by sgcl embed.", affects=False, argument=True)
    labels: str | None = option(
        None, "CSV table slide_id,label[,patient_id][,site][,split].", affects=False, panel="Data"
    )
    train: str | None = option(None, "Folder of features to fit on; needs --test.", affects=False, panel="Data")
    test: str | None = option(None, "Folder of features to test on; needs --train.", affects=False, panel="Data")
    patches: str | None = option(
        None,
        "Folder of the patches, for heatmaps and --finetune; default: as recorded in the features.",
        affects=False,
        panel="Data",
    )
    slides: str | None = option(
        None,
        "Folder of the slides, for heatmaps of slides that were not tiled by sgcl tile.",
        affects=False,
        panel="Data",
    )
    compare: tuple[str, ...] = option(
        (), "Folders of finished evaluations to compare: --compare A B ...", affects=False, panel="Data"
    )
    target: str = option("label", "Column of --labels with the target.", panel="Data")
    id: str = option("slide_id", "Column of --labels with the slide ids.", panel="Data")
    time: str | None = option(
        None, "Column of --labels with the time to event or censoring, for survival; needs --event.", panel="Data"
    )
    event: str | None = option(
        None, "Column of --labels with the event indicator: 1 for an event, 0 for censored; needs --time.", panel="Data"
    )
    level: Literal["auto", "slide", "patch"] = option(
        "auto",
        "What to predict: slides or patches; auto: slides if --labels has the target, else patches.",
        panel="Data",
    )
    task: Literal["auto", "binary", "multiclass", "regression", "survival"] = option(
        "auto", "Type of the target; auto: inferred from its values.", panel="Data"
    )
    allow_missing: bool = option(
        False, "Continue if more than 5 % of the labelled slides have no features.", panel="Data"
    )

    protocol: Literal["sgcl"] | None = option(
        None,
        "Named settings, overridden by TOML and flags: sgcl, those of the paper; --print-config shows them.",
        affects=False,
        panel="Protocol",
    )
    models: str | None = option(
        None,
        f"Multiple-instance models of slides, separated by commas: {','.join(BAG_MODELS)}; default: gated-abmil.",
        panel="Protocol",
    )
    cv: Literal["patient", "site"] = option(
        "patient", "Groups that folds keep together: patients, or sites, each left out once.", panel="Protocol"
    )
    splits: str | None = option(
        None,
        "Given splits: a splits.csv of sgcl evaluate, CLAM's, or a table slide_id,split.",
        affects=False,
        panel="Data",
    )
    folds: int | None = option(
        None,
        "Folds of patient-grouped cross-validation; default: 5, or fewer if a fold would have under 4 patients of a class.",
        low=2,
        high=50,
        panel="Protocol",
    )
    seeds: int = option(
        3,
        "Fits of each multiple-instance model per fold; predictions are averaged.",
        low=1,
        high=1000,
        panel="Protocol",
    )
    bag_sample: int | None = option(
        None, "Patches sampled from each training slide per epoch; default: all.", low=1, high=10**7, panel="Protocol"
    )
    label_efficiency: bool = option(
        False, "Also fit on 1, 10 and 100 % of the training patients, repeatedly.", panel="Protocol"
    )
    refit: bool = option(False, "After the evaluation, also fit on all patients, for sgcl predict.", panel="Protocol")
    validation: float = option(
        0.2, "Fraction of training patients held out to choose settings.", above=0, below=1, panel="Protocol"
    )
    linear: Literal["path", "sgd"] = option(
        "path",
        "Linear classifier: path chooses C on the validation patients; sgd has a fixed schedule, with a tenth of the rate after "
        "60 and 80 % of the epochs.",
        panel="Protocol",
    )
    linear_epochs: int = option(100, "Epochs of --linear sgd.", low=1, high=10**6, panel="Protocol")
    linear_lr: float = option(0.03, "Learning rate of --linear sgd.", above=0, panel="Protocol")
    knn_k: int | None = option(
        None,
        "Neighbours of the kNN probe; default: 10, 20, 100 or 200, whichever is best on the validation patients.",
        low=1,
        high=10**6,
        panel="Protocol",
    )
    knn_temperature: float = option(0.07, "Temperature of the kNN vote weights.", above=0, panel="Protocol")
    mil_epochs: int = option(60, "Most epochs of multiple-instance models.", low=1, high=10**6, panel="Protocol")
    mil_patience: int = option(
        12,
        "Epochs without a lower validation loss after which their training stops.",
        low=1,
        high=10**6,
        panel="Protocol",
    )
    mil_lr: float = option(3e-4, "Learning rate of multiple-instance models.", above=0, panel="Protocol")
    mil_hidden: int = option(128, "Hidden units of multiple-instance models.", low=1, high=2**14, panel="Protocol")
    mil_dropout: float = option(0.25, "Dropout of multiple-instance models.", low=0, below=1, panel="Protocol")
    bootstrap: int = option(
        2000, "Resamples of the patients for confidence intervals; 0: none.", low=0, high=10**6, panel="Protocol"
    )
    confidence: float = option(0.95, "Confidence level of the intervals.", above=0, below=1, panel="Protocol")

    finetune: str | None = option(
        None,
        "Folder written by sgcl pretrain: fine-tune its encoder on labelled patches, and for comparison one from scratch.",
        affects=False,
        panel="Fine-tuning",
    )
    finetune_shares: str = option(
        "1,10,100", "Percentages of the training patients to fine-tune on, separated by commas.", panel="Fine-tuning"
    )
    finetune_epochs: int = option(
        20,
        "Epochs of fine-tuning; the best one on the validation patients is kept.",
        low=1,
        high=10**6,
        panel="Fine-tuning",
    )
    finetune_lr: str = option(
        "0.003,0.03", "Peak learning rates to choose from on validation, separated by commas.", panel="Fine-tuning"
    )
    finetune_batch: int = option(64, "Patches per batch of fine-tuning.", low=2, high=2**16, panel="Fine-tuning")
    finetune_seeds: int = option(
        1, "Fits of each network per fold; predictions are averaged.", low=1, high=1000, panel="Fine-tuning"
    )

    dense: str | None = option(
        None, "Folder of masks: classify pixels from the encoder's feature map.", affects=False, panel="Dense"
    )
    encoder: str | None = option(
        None, "Encoder for --dense, as in sgcl embed; it must have a feature map.", affects=False, panel="Dense"
    )
    mask_values: str | None = option(
        None, "Classes of mask values: 255=tumour,0=other; default: each value is a class.", panel="Dense"
    )
    mask_origin: AnnotationsOrigin = option(
        "slide",
        "Extent of masks on slides with openslide.bounds-*: the whole slide (slide), or the scanned region, as QuPath exports it "
        "(bounds).",
        panel="Dense",
    )
    ignore: int | None = option(None, "Mask value to ignore.", low=0, high=2**32 - 1, panel="Dense")
    dense_layer: str | None = option(
        None, "Layer of the feature map: layer1 to layer4, or block1 to block12; default: the last.", panel="Dense"
    )
    dense_pixels: int = option(8000, "Labelled pixels per slide to fit the head on.", low=1, high=10**7, panel="Dense")

    @property
    def bag_models(self) -> tuple[str, ...]:
        """Names of the multiple-instance models; gated-abmil by default."""
        return tuple(name.strip() for name in (self.models or "gated-abmil").split(","))

    @property
    def tuned_shares(self) -> tuple[float, ...]:
        """``--finetune-shares`` as fractions, ascending."""
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
            raise ConfigError(f"--models: there is no '{unknown[0]}'", f"choose from: {', '.join(BAG_MODELS)}")
        if (self.time is None) != (self.event is None):
            raise ConfigError("--time and --event go together", "name both columns")
        if self.time is not None and self.task not in ("auto", "survival"):
            raise ConfigError(
                f"--time and --event are for survival, not --task {self.task}",
                "leave out --task, or --time and --event",
            )
        if self.splits is not None and self.cv == "site":
            raise ConfigError("--splits and --cv site both divide the slides", "give one of them")
        if self.finetune is not None:
            self._check_finetune()
        if self.compare:
            if self.features or self.train or self.test or self.labels:
                raise ConfigError("--compare takes only finished evaluations", "leave out features and labels")
            return
        if self.dense:
            if self.features or self.train or self.test:
                raise ConfigError("--dense reads patches, not features", "leave out the features")
            if self.splits is not None:
                raise ConfigError("--splits does not go with --dense", "slides, patients or sites are left out in turn")
            return
        pair = self.train is not None or self.test is not None
        if pair and (self.train is None or self.test is None):
            raise ConfigError("--train and --test go together", "give both, or FEATURES with --labels")
        if pair and (self.splits is not None or self.cv == "site"):
            raise ConfigError("--train and --test already define the split", "leave out --splits and --cv site")
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
            raise ConfigError("--finetune is at patch level, but --level is slide", "leave out one of them")


def _numbers(name: str, text: str, most: float) -> tuple[float, ...]:
    """Distinct positive numbers from a comma-separated list, ascending.

    :raises ConfigError: not such a list.
    """
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and 0 < number <= most for number in numbers):
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise ConfigError(f"{flag(name)} is '{text}'", f"give numbers greater than 0{bound}, separated by commas")
    return tuple(numbers)
