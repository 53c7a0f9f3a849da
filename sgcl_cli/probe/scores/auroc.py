"""AUROC of many resamples at once; a resample is a vector of weights of the patients.

Shapes: n rows, G patients, R resamples. Both algorithms are exact; ties count one half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
_BLOCK = 128


def resampled_auroc(values: Floats, positive: NDArray[np.bool_], patient: Labels, weights: Floats) -> Floats:
    """The AUROC of each resample, (R,), NaN if a class is absent, by the faster algorithm.

    :param values: (n,), higher for the positive class; positive: (n,); patient: (n,) in [0, G); weights: (R, G).
    """
    if len(values) < weights.shape[1] ** 2:
        return auroc_by_rank(values, positive, patient, weights)
    return auroc_by_pairs(values, positive, patient, weights)


def auroc_by_rank(values: Floats, positive: NDArray[np.bool_], patient: Labels, weights: Floats) -> Floats:
    """Weighted AUROC of each resample, (R,), in O(R n): rows are sorted once, then the weights of the negatives accumulated."""
    order = np.argsort(values, kind="stable")
    _, first = np.unique(values[order], return_index=True)
    is_positive, owner = positive[order], patient[order]
    result = np.empty(len(weights))
    for start in range(0, len(weights), _BLOCK):
        weight = weights[start : start + _BLOCK][:, owner]
        wins = np.add.reduceat(weight * is_positive, first, axis=1)
        losses = np.add.reduceat(weight * ~is_positive, first, axis=1)
        below = np.cumsum(losses, axis=1) - losses / 2
        pairs = wins.sum(1) * losses.sum(1)
        with np.errstate(invalid="ignore"):
            result[start : start + _BLOCK] = (wins * below).sum(1) / np.where(pairs > 0, pairs, np.nan)
    return result


def auroc_by_pairs(values: Floats, positive: NDArray[np.bool_], patient: Labels, weights: Floats) -> Floats:
    """Weighted AUROC of each resample, (R,): w^T A w / pairs, A[p, q] = pairs of a positive of p ranked above a negative of q.

    O(n G log n) for A, then O(R G^2).
    """
    patients = weights.shape[1]
    up, owner = values[positive], patient[positive]
    beaten = np.zeros((patients, patients))
    for q in range(patients):
        down = np.sort(values[~positive & (patient == q)])
        wins = (np.searchsorted(down, up, "left") + np.searchsorted(down, up, "right")) / 2
        beaten[:, q] = np.bincount(owner, wins, patients)
    positives = np.bincount(owner, minlength=patients)
    negatives = np.bincount(patient[~positive], minlength=patients)
    pairs = (weights @ positives) * (weights @ negatives)
    with np.errstate(invalid="ignore"):
        result: Floats = ((weights @ beaten) * weights).sum(1) / np.where(pairs > 0, pairs, np.nan)
    return result
