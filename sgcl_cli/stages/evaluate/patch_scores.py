"""Scores of single patches by models of slides, each patch treated as a slide of its own, and how they are displayed.

Shapes: N patches of a slide, K outputs of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.probe import fitted
from sgcl_cli.report.colour_scale import ColourScale

Floats = NDArray[np.float64]
_SHOWN = 98.0  # percentile of the distances from the middle that is the end of a scale


def model_of(kinds: Mapping[str, tuple[str, Mapping[str, Any], str]], attention_model: str | None) -> str | None:
    """Key of the model that scores patches: the one with attention if it can, else the first that can; None where none can.

    :param kinds: by key the kind of a model's fits, their settings and their view; see ``probe.fitted``.
    """
    order = [key for key in kinds if key == attention_model] + [key for key in kinds if key != attention_model]
    return next((key for key in order if fitted.scores_patches(*kinds[key])), None)


def mean_of_seeds(fits: Sequence[Fitted], features: NDArray[np.floating], device: torch.device) -> Floats:
    """Scores of patches, (N, K) from features (N, D): the mean over the models of a fold."""
    mean: Floats = np.mean([fitted.predict_patches(one, features, device) for one in fits], axis=0)
    return mean


@dataclass(frozen=True)
class ShownScores:
    """The displayed score of each patch, and its colour scale.

    :ivar values: (N,).
    :ivar scale: of colours.
    """

    values: Floats
    scale: ColourScale


def shown(
    scores: Mapping[str, Floats],
    *,
    task: str,
    classes: Sequence[str],
    called: Mapping[str, int],
    groups: Mapping[str, str],
) -> dict[str, ShownScores]:
    """The displayed scores by slide: for two classes the probability of the second, for more that of the slide's predicted
    class, else the value or log risk.

    Values and log risks have one colour scale for all slides of a group. It is centred on the median patch and extends to the
    98th percentile of the distances from it.

    :param scores: (N, K), by slide.
    :param called: index of the predicted class, by slide.
    :param groups: by slide a group with comparable values, e.g. the fold: log risks of two models have no common zero.
    """
    if classes:
        return {slide: _class(values, classes, called.get(slide, 0)) for slide, values in scores.items()}
    found: dict[str, ShownScores] = {}
    for group in sorted(set(groups.values())):
        mine = [slide for slide in scores if groups[slide] == group]
        scale = _around_the_median(np.concatenate([scores[slide][:, 0] for slide in mine]), task)
        found |= {slide: ShownScores(scores[slide][:, 0], scale) for slide in mine}
    return {slide: found[slide] for slide in scores}


def _class(values: Floats, classes: Sequence[str], called: int) -> ShownScores:
    column = 1 if len(classes) == 2 else called
    even, name = 1 / len(classes), classes[column].encode("ascii", "replace").decode("ascii")
    middle = "1/2" if len(classes) == 2 else f"1/{len(classes)}"
    return ShownScores(values[:, column], ColourScale(0.0, even, 1.0, ("0", middle, "1"), f"probability of {name}"))


def _around_the_median(values: Floats, task: str) -> ColourScale:
    middle = float(np.median(values))
    reach = float(np.percentile(np.abs(values - middle), _SHOWN)) or max(1e-9, 1e-9 * abs(middle))
    low, high = middle - reach, middle + reach
    named = "log risk" if task == "survival" else "value"
    return ColourScale(
        low, middle, high, (f"{low:.3g}", f"{middle:.3g}", f"{high:.3g}"), f"{named}; middle: median patch"
    )
