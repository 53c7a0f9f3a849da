"""Classes of single pixels: a linear head on feature maps, and how well its regions meet the truth.

Shapes: K classes, D features, S slides. ``counts`` (K, K) are pixels, rows the truth, columns the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.linear import LinearProbe
from sgcl_cli.probe.uncertainty import Score

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Head:
    """Scores (n, K) = rows (n, D) ``weight`` + ``bias``; -inf for a class that was not in training."""

    weight: Floats
    bias: Floats

    @classmethod
    def of(cls, probe: LinearProbe) -> Head:
        """The probe with its standardisation folded in. Softmax of the scores is the probe's probability."""
        weight = probe.solution.coefficients / probe.standardise.scale[:, None]
        bias = probe.solution.intercept - probe.standardise.mean @ weight
        if weight.shape[1] == 1 and len(probe.present) == 2:
            weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), bias])
        full, offset = np.zeros((len(weight), probe.classes)), np.full(probe.classes, -np.inf)
        full[:, probe.present], offset[probe.present] = weight, bias
        return cls(full, offset)

    @classmethod
    def constant(cls, number: int, classes: int, dim: int) -> Head:
        """One class everywhere."""
        return cls(np.zeros((dim, classes)), np.where(np.arange(classes) == number, 0.0, -np.inf))


def count(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Pixels by truth and prediction; a truth outside 0 .. K - 1 is left out."""
    known = (truth >= 0) & (truth < classes)
    cells = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def dice(counts: Counts) -> list[Score]:
    """2 TP / (2 TP + FP + FN) of each class (Dice 1945); undefined where a class is neither there nor predicted."""
    return _shares(2 * counts.diagonal(), counts.sum(0) + counts.sum(1))


def iou(counts: Counts) -> list[Score]:
    """TP / (TP + FP + FN) of each class (Jaccard 1912); undefined where a class is neither there nor predicted."""
    right = counts.diagonal()
    return _shares(right, counts.sum(0) + counts.sum(1) - right)


def _shares(right: Counts, total: Counts) -> list[Score]:
    return [
        Score(float(a / b)) if b else Score(None, "neither there nor predicted")
        for a, b in zip(right.tolist(), total.tolist(), strict=True)
    ]


def mean(scores: Sequence[Score]) -> float | None:
    """The mean over the classes where it is defined."""
    known = [score.value for score in scores if score.value is not None]
    return float(np.mean(known)) if known else None


def left_out(groups: NDArray[np.str_], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """The slides that each fold reports: groups in a seeded order, dealt out to as many folds as there are groups at most."""
    names = np.unique(groups)
    order = np.random.default_rng([seed, 5]).permutation(len(names))
    number = {names[place]: turn % min(folds, len(names)) for turn, place in enumerate(order.tolist())}
    fold = np.array([number[group] for group in groups.tolist()])
    return [np.flatnonzero(fold == one) for one in range(min(folds, len(names)))]
