"""SimpleShot (Wang, Chao, Weinberger, van der Maaten 2019): nearest centroid of centred features of unit length (CL2N)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Centroids:
    """p(c | q) = softmax_c( - |u(q) - m_c|^2 ),  u(x) = (x - mean) / |x - mean|,  m_c = mean of u over class c.

    The mean is that of the reference rows. The nearest centroid has the highest p; p is not calibrated.

    :ivar mean: (D,). :ivar centroids: (P, D), of the classes ``present`` (P,) in [0, ``classes``).
    """

    mean: Floats
    centroids: Floats
    present: NDArray[np.int64]
    classes: int

    @classmethod
    def fit(cls, reference: NDArray[np.floating], labels: NDArray[np.int64], *, classes: int) -> Centroids:
        """From reference rows (N, D) with labels (N,) in [0, ``classes``)."""
        mean = reference.mean(axis=0, dtype=np.float64)
        known, present = _unit(reference - mean), np.unique(labels)
        return cls(mean, np.stack([known[labels == c].mean(axis=0) for c in present]), present, classes)

    def __call__(self, queries: NDArray[np.floating]) -> Floats:
        """p of queries (Q, D): (Q, ``classes``), rows sum to 1; 0 for a class without reference rows."""
        rows = _unit(queries - self.mean)
        distance = (rows**2).sum(1)[:, None] - 2 * rows @ self.centroids.T + (self.centroids**2).sum(1)
        weight = np.exp(distance.min(axis=1, keepdims=True) - distance)
        share = np.zeros((len(queries), self.classes))
        share[:, self.present] = weight / weight.sum(axis=1, keepdims=True)
        return share


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
