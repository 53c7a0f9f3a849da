"""SimpleShot (Wang, Chao, Weinberger, van der Maaten 2019): nearest centroid of centred features of unit length (CL2N)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def predict(
    reference: NDArray[np.floating], labels: NDArray[np.int64], queries: NDArray[np.floating], *, classes: int
) -> Floats:
    """p(c | q) = softmax_c( - |u(q) - m_c|^2 ),  u(x) = (x - mean) / |x - mean|,  m_c = mean of u over class c.

    The mean is that of the reference rows. The nearest centroid has the highest p; p ranks, it is not calibrated.

    :param reference: (N, D) with labels (N,) in [0, ``classes``); queries: (Q, D).
    :returns: (Q, ``classes``), rows sum to 1; a class without reference rows has 0.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    known, asked = _unit(reference - mean), _unit(queries - mean)
    present = np.unique(labels)
    centroids = np.stack([known[labels == c].mean(axis=0) for c in present])
    distance = (asked**2).sum(1)[:, None] - 2 * asked @ centroids.T + (centroids**2).sum(1)
    weight = np.exp(distance.min(axis=1, keepdims=True) - distance)
    share = np.zeros((len(queries), classes))
    share[:, present] = weight / weight.sum(axis=1, keepdims=True)
    return share


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
