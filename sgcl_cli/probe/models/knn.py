"""The weighted kNN probe of instance discrimination (Wu et al. 2018): the k most similar rows vote with weight exp(sim / T)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KS = (10, 20, 100, 200)
K_DEFAULT = 20
TEMPERATURE = 0.07
BLOCK = 1024


def votes(
    reference: NDArray[np.floating],
    labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    *,
    classes: int,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> dict[int, Floats]:
    """p(c | q) is proportional to the sum of exp(cos(q, r) / T) over the rows r of class c among the k nearest rows of q.

    :param reference: (N, D) with labels (N,) in [0, ``classes``); queries: (Q, D).
    :param ks: numbers of neighbours, at most N are used; similarities are computed once for all of them.
    :returns: for each k, (Q, ``classes``), rows sum to 1.
    """
    bank = _unit_rows(reference)
    most = min(max(ks), len(bank))
    found = {k: np.empty((len(queries), classes)) for k in ks}
    for start in range(0, len(queries), BLOCK):
        similarity = _unit_rows(queries[start : start + BLOCK]) @ bank.T
        nearest = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        chosen = np.take_along_axis(similarity, nearest, axis=1)
        order = np.argsort(-chosen, axis=1, kind="stable")
        nearest, chosen = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(chosen, order, axis=1)
        weight = np.exp((chosen - chosen[:, :1]).astype(np.float64) / temperature)
        for c in range(classes):
            running = np.where(labels[nearest] == c, weight, 0.0).cumsum(axis=1)
            for k in ks:
                found[k][start : start + BLOCK, c] = running[:, min(k, most) - 1]
    return {k: votes / votes.sum(axis=1, keepdims=True) for k, votes in found.items()}


def choose(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    classes: int,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> tuple[int, dict[int, float]]:
    """The k with the lowest Brier score on ``validation``, and the score of each; ties take the smaller k.

    Votes can be 0, so cross-entropy can be infinite. Without validation rows k is 20, or the first of ``ks``.
    """
    if not len(validation):
        return (K_DEFAULT if K_DEFAULT in ks else ks[0]), {}
    found = votes(features[train], labels[train], features[validation], classes=classes, ks=ks, temperature=temperature)
    truth = np.eye(classes)[labels[validation]]
    scores = {k: float(((found[k] - truth) ** 2).sum(1).mean()) for k in ks}
    return min(scores, key=lambda k: (scores[k], k)), scores


def _unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = rows.astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(length, np.float32(1e-12))
    return unit
