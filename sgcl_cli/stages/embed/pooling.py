"""How the features of a slide's patches become one vector.

Shapes: N patches of a slide, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.errors import ArtefactError

Pool = Callable[[NDArray[np.floating]], NDArray[np.float32]]


@dataclass(frozen=True)
class PooledBlock:
    """Columns of a slide embedding that come from one model.

    :ivar pool: features (N, D), N >= 1, to the block's columns.
    :ivar fold, seed: of the model; "" and 0 for the mean.
    """

    pool: Pool
    fold: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Pooling:
    """How a slide's patches become one vector.

    :ivar name: part of the files' names.
    :ivar blocks: side by side in the vector.
    :ivar facts: what it is, JSON values.
    :ivar fitted_on: by slide id the folds whose models were fitted on the slide; None for the mean.
    """

    name: str
    blocks: tuple[PooledBlock, ...]
    facts: Mapping[str, Any]
    fitted_on: Mapping[str, Sequence[str]] | None = None
    warnings: list[str] = field(default_factory=list)

    def __call__(self, file: FeatureFile) -> NDArray[np.float32]:
        """The vector of a slide with patches.

        :raises ArtefactError: it is not finite, since a model's weights are beyond what its features allow.
        """
        with np.errstate(all="ignore"):
            vector = np.concatenate([block.pool(file.features) for block in self.blocks])
        if not np.isfinite(vector).all():
            raise ArtefactError(
                f"the slide embedding of {file.slide_id} is not finite",
                "embed with --dtype float32, or use another model",
            )
        return vector


def mean_of_patches(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """The mean row (D,) of (N, D), summed in float64; neither the rows nor the mean are normalised."""
    mean: NDArray[np.float32] = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def resolution(geometry: Mapping[str, Any] | None) -> float:
    """µm per pixel of patches by the attributes of their coordinates; NaN where unknown."""
    known = geometry or {}
    return float(known.get("mpp_actual", known.get("mpp_target", np.nan)))
