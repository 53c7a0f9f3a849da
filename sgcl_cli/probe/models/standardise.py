"""Standardisation of features by the training rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and standard deviation of the training rows; constant features get scale 1."""

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, features: NDArray[np.floating]) -> Standardiser:
        """From rows (N, D)."""
        mean = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        constant = spread <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(mean, np.where(constant, 1.0, spread))

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        standardised: Floats = (features.astype(np.float64) - self.mean) / self.scale
        return standardised
