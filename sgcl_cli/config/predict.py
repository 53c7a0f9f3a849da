"""Settings of ``sgcl predict``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, option


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Settings of ``sgcl predict``."""

    table: ClassVar[str] = "predict"

    seed: int = option(0, "Random seed, which this command does not use.", low=0, high=2**31 - 1, affects=False)
    result: str = option(REQUIRED, "Folder written by sgcl evaluate.", affects=False, argument=True)
    features: str = option(REQUIRED, "Folder of features, from the same encoder.", affects=False, argument=True)
    labels: str | None = option(
        None, "Table slide_id,patient_id of these slides, to find patients that the models were fitted on."
    )
    models: str | None = option(
        None, "Models to apply, named as in metrics.json, separated by commas; default: all that were stored."
    )
    use: Literal["auto", "folds", "all"] = option(
        "auto",
        "Average the models of all folds (folds), or use the one that --refit fitted on all patients (all); auto: all if there "
        "is one, else folds.",
    )
    allow_mpp: bool = option(
        False, "Continue if these features differ in resolution by more than 10 % from those of the evaluation."
    )
    scores: bool = option(True, "Score each patch of a slide by itself, for scores/ and its heatmaps.")
    patches: str | None = option(
        None, "Folder of the patches, for heatmaps; default: as recorded in the features.", affects=False
    )
    slides: str | None = option(
        None, "Folder of the slides, for heatmaps of slides that were not tiled by sgcl tile.", affects=False
    )
