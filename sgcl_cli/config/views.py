"""Options of the augmented views of a patch in pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from sgcl_cli.config.base import Options, flag, option
from sgcl_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Sizes and strengths of the views; the defaults are those of the published recipe (docs/method.md)."""

    view: int | None = option(
        None, "Side of the global view, pixels; default: 224 / 256 of the patch.", low=16, panel="Views"
    )
    corner: int | None = option(
        None, "Side of a corner view, pixels; default: 96 / 256 of the patch.", low=8, panel="Views"
    )
    crop_low: float = option(
        0.2, "Smallest area of the global crop, as a fraction of the patch.", above=0, high=1, panel="Views"
    )
    crop_high: float = option(
        1.0, "Largest area of the global crop, as a fraction of the patch.", above=0, high=1, panel="Views"
    )
    corner_crop_low: float = option(
        0.2, "Smallest area of a corner crop, as a fraction of the quarter.", above=0, high=1, panel="Views"
    )
    corner_crop_high: float = option(
        0.56, "Largest area of a corner crop, as a fraction of the quarter.", above=0, high=1, panel="Views"
    )
    grayscale: float = option(0.2, "Probability of conversion to greyscale.", low=0, high=1, panel="Views")
    brightness: float = option(0.4, "Strength of the brightness jitter.", low=0, high=1, panel="Views")
    contrast: float = option(0.4, "Strength of the contrast jitter.", low=0, high=1, panel="Views")
    saturation: float = option(0.4, "Strength of the saturation jitter.", low=0, high=1, panel="Views")
    hue: float = option(
        0.4, "Strength of the hue jitter, in turns of the colour circle.", low=0, high=0.5, panel="Views"
    )
    flip: float = option(0.5, "Probability of a horizontal flip.", low=0, high=1, panel="Views")
    vertical_flip: float = option(0.0, "Probability of a vertical flip.", low=0, high=1, panel="Views")
    rotate90: float = option(0.0, "Probability of a rotation by 90, 180 or 270 degrees.", low=0, high=1, panel="Views")
    stain_scale: float = option(
        0.0, "Stain jitter: factors on haematoxylin, eosin and residual, 1 ± this value.", low=0, high=1, panel="Views"
    )
    stain_shift: float = option(
        0.0, "Stain jitter: shifts of the same, ± this value, in optical density.", low=0, high=1, panel="Views"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in (("crop_low", "crop_high"), ("corner_crop_low", "corner_crop_high")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{flag(low)} {getattr(self, low)} is above {flag(high)} {getattr(self, high)}")
