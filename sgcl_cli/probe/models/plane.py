"""Projection of embeddings onto their first two principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Coordinates (n, 2) of rows, and the shares of variance explained by the two components."""

    places: Floats
    explained: tuple[float, float]


def principal_plane(rows: NDArray[np.floating]) -> Plane | None:
    """Project centred rows (n, D) onto their first two right singular vectors (Pearson 1901); None if the rows do not span one.

    The sign of each component makes its largest loading positive, so equal rows give equal coordinates.
    """
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    if min(centred.shape) < 2 or len(centred) < 3:
        return None
    left, singular, loadings = np.linalg.svd(centred, full_matrices=False)
    power = singular**2
    if power[0] <= 0:
        return None
    largest = np.abs(loadings[:2]).argmax(1)
    sign = np.sign(loadings[[0, 1], largest])
    share = power[:2] / power.sum()
    return Plane(left[:, :2] * singular[:2] * sign, (float(share[0]), float(share[1])))
