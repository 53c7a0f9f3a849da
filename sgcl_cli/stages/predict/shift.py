"""Features that are far from those the models were fitted on, or that are all equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sgcl_cli.artefacts.models import Kept
from sgcl_cli.stages.predict.applied import Rows

FAR = 5.0  # standard deviations; half of the features of a normal distribution are within 0.67
_NAMES = {"mean": "mean features of slides", "patch": "features of patches"}


def warnings_of(rows: Rows, models: Mapping[str, Kept]) -> list[str]:
    """Warnings about features of another scale than those fitted on, such as L2-normalised ones, and about equal features.

    The distance is the median, over features and rows, of |x - mean| / standard deviation, with mean and standard deviation of
    the first linear model's training rows.
    """
    found = []
    if len(rows) > 1 and all((file.features == rows.files[0].features[0]).all() for file in rows.files):
        found.append(
            "the features of all patches are equal, so predictions do not depend on the slides: check the encoder"
        )
    for kept in models.values():
        if not is_reference(kept):
            continue
        arrays = next(iter(kept.folds.values()))[0].arrays
        distance = float(np.median(np.abs(rows.view(kept.view) - arrays["mean"]) / arrays["scale"]))
        if distance > FAR:
            found.append(
                f"{_NAMES[kept.view]} are typically {distance:.3g} standard deviations from those that the models were fitted "
                "on: are they of the same encoder and scale?"
            )
        break
    return found


def is_reference(kept: Kept) -> bool:
    """Whether a model records mean and standard deviation of its training rows."""
    return kept.view in _NAMES and {"mean", "scale"} <= {*next(iter(kept.folds.values()))[0].arrays}
