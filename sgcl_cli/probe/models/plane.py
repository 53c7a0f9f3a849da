"""Embeddings in a plane: the first two principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Places (n, 2) of rows, and the shares of the variance that the two components hold."""

    places: Floats
    explained: tuple[float, float]


def principal_plane(rows: NDArray[np.floating]) -> Plane | None:
    """Project centred rows (n, D) onto their first two right singular vectors (Pearson 1901); None where there is no plane.

    The sign of a component is that which makes its largest loading positive, so equal rows give equal places.
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
