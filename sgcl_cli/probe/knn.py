"""The weighted kNN probe of instance discrimination (Wu et al. 2018): the k most alike rows vote with exp(sim / T)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 1024


def predict(
    reference: NDArray[np.floating],
    labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Floats:
    """p(c | q) is proportional to the sum of exp(cos(q, r) / T) over those of q's k nearest rows r that have class c.

    :param reference: (N, D) with labels (N,) in [0, ``classes``); queries: (Q, D).
    :param k: neighbours; all N where there are fewer.
    :returns: (Q, ``classes``), rows sum to 1.
    """
    bank = _unit_rows(reference)
    k = min(k, len(bank))
    votes = np.empty((len(queries), classes))
    for start in range(0, len(queries), BLOCK):
        similarity = _unit_rows(queries[start : start + BLOCK]) @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        chosen = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((chosen - chosen.max(axis=1, keepdims=True)) / temperature)
        block = votes[start : start + BLOCK]
        for c in range(classes):
            block[:, c] = np.where(labels[nearest] == c, weight, 0.0).sum(axis=1)
    share: Floats = votes / votes.sum(axis=1, keepdims=True)
    return share


def _unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = rows.astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(length, np.float32(1e-12))
    return unit
