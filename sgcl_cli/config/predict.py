"""Settings of ``sgcl predict``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, option


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Settings of ``sgcl predict``."""

    table: ClassVar[str] = "predict"

    seed: int = option(
        0, "Seed, as every command has it; nothing here is random.", low=0, high=2**31 - 1, affects=False
    )
    result: str = option(REQUIRED, "Folder that sgcl evaluate wrote.", affects=False, argument=True)
    features: str = option(REQUIRED, "Folder of features, from the same encoder.", affects=False, argument=True)
    labels: str | None = option(
        None, "Table with slide_id and patient_id of these slides, to compare their patients with those fitted on."
    )
    models: str | None = option(
        None, "Models to apply, by comma, as metrics.json names them; default: all that were kept."
    )
    use: Literal["auto", "folds", "all"] = option(
        "auto",
        "Models of the folds, averaged, or the one that --refit fitted on all patients; auto: that one where there is one.",
    )
    allow_mpp: bool = option(
        False, "Go on where features differ in resolution by more than 10 % from those that were fitted on."
    )
    scores: bool = option(True, "Score each patch of a slide by itself, for scores/ and its heatmaps.")
    patches: str | None = option(
        None, "Folder of the patches, for heatmaps; default: where the features say.", affects=False
    )
    slides: str | None = option(
        None, "Folder of the slides, for heatmaps where sgcl tile left no thumbnails.", affects=False
    )
