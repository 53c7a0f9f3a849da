"""Classification of pixels: a linear head on feature maps, and the overlap of its classes with the truth.

Shapes: K classes, D features, G groups. ``counts`` (K, K) are confusion matrices of pixels, rows truth, columns prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.models.linear import LinearProbe
from sgcl_cli.probe.scores.intervals import Interval, interval
from sgcl_cli.probe.scores.reported import FEWEST_OF_A_CLASS, FEWEST_PATIENTS, Score
from sgcl_cli.probe.scores.resampling import Resampled, draw, leave_one_out, mean_of_defined

METRICS = ("dice", "iou")
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Head:
    """Scores (n, K) = rows (n, D) @ ``weight`` + ``bias``; -inf for a class that was absent from training."""

    weight: Floats
    bias: Floats

    @classmethod
    def of(cls, probe: LinearProbe) -> Head:
        """The probe with its standardisation merged into the weights; softmax of the scores gives the same probabilities."""
        weight = probe.solution.coefficients / probe.standardise.scale[:, None]
        bias = probe.solution.intercept - probe.standardise.mean @ weight
        if weight.shape[1] == 1 and len(probe.present) == 2:
            weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), bias])
        full, offset = np.zeros((len(weight), probe.classes)), np.full(probe.classes, -np.inf)
        full[:, probe.present], offset[probe.present] = weight, bias
        return cls(full, offset)


def count(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Confusion matrix of pixels; pixels with a truth outside 0 .. K - 1 are ignored."""
    known = (truth >= 0) & (truth < classes)
    cells = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def scores(counts: Counts) -> dict[str, list[Score]]:
    """Dice and IoU of each class; undefined for a class that is neither present nor predicted."""
    return {
        metric: [
            Score(float(part / whole)) if whole else Score(None, "neither there nor predicted")
            for part, whole in zip(*parts, strict=True)
        ]
        for metric, parts in _parts(counts).items()
    }


def _parts(counts: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Numerator and denominator of each class, (..., K) each, from counts (..., K, K).

    Dice = 2 TP / (2 TP + FP + FN) (Dice 1945); IoU = TP / (TP + FP + FN) (Jaccard 1912).
    """
    right = counts.diagonal(axis1=-2, axis2=-1)
    both = counts.sum(-1) + counts.sum(-2)
    return {"dice": (2 * right, both), "iou": (right, both - right)}


def mean(scores: Sequence[Score]) -> Score:
    """The mean over the classes with a defined score."""
    known = [score.value for score in scores if score.value is not None]
    return Score(float(np.mean(known))) if known else Score(None, scores[0].reason)


def intervals(
    counts: Counts, classes: Sequence[str], *, unit: str, resamples: int, confidence: float, seed: int
) -> dict[str, list[Interval]]:
    """For each metric the intervals of the classes, then that of their mean, by resampling of whole groups.

    Pixels of all groups are pooled, as for the score itself; intervals are conditional on the fitted heads. There is no
    interval below 10 groups, for a class in fewer than 5 groups, or for the mean if a class has none.

    :param counts: (G, K, K). :param unit: plural noun for the groups, used in the reasons.
    """
    reasons = [_why_none(counts, number, name, unit, resamples) for number, name in enumerate(classes)]
    reasons.append(next(filter(None, reasons), ""))
    found = resampled(counts, resamples, seed) if not all(reasons) else {}
    return {
        metric: [
            Interval(None, None, why) if why else interval(found[metric][number], confidence, witnesses=len(counts))
            for number, why in enumerate(reasons)
        ]
        for metric in METRICS
    }


def resampled(counts: Counts, resamples: int, seed: int) -> dict[str, list[Resampled]]:
    """For each metric the scores of the classes, then their mean, under resampling of the groups; NaN where undefined.

    The draws depend only on the seed and the number of groups, so two encoders are compared on the same draws.

    :param counts: (G, K, K).
    """
    one_stratum = np.zeros(len(counts), dtype=np.int64)
    drawn = draw(one_stratum, resamples, np.random.default_rng([seed, 6]))
    weights = np.vstack([np.ones((1, len(counts))), leave_one_out(one_stratum), drawn])
    totals = np.einsum("rg,gtp->rtp", weights, counts)
    end = 1 + len(counts)
    found = {}
    for metric, (part, whole) in _parts(totals).items():
        shares = np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
        columns = [*shares.T, mean_of_defined(shares.T)]
        found[metric] = [Resampled(float(one[0]), one[end:], one[1:end], one_stratum) for one in columns]
    return found


def _why_none(counts: Counts, number: int, name: str, unit: str, resamples: int) -> str:
    if resamples == 0:
        return "no resamples (--bootstrap 0)"
    if len(counts) < FEWEST_PATIENTS:
        return f"{len(counts)} {unit}, fewer than {FEWEST_PATIENTS}"
    holding = int((counts[:, number].sum(1) > 0).sum())
    if holding < FEWEST_OF_A_CLASS:
        return f"{holding} {unit} hold class '{name}', fewer than {FEWEST_OF_A_CLASS}"
    return ""


def left_out(groups: NDArray[np.str_], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Test slides of each fold: groups in random order are assigned to the folds, at most one fold per group, in turn."""
    names = np.unique(groups)
    order = np.random.default_rng([seed, 5]).permutation(len(names))
    number = {names[place]: turn % min(folds, len(names)) for turn, place in enumerate(order.tolist())}
    fold = np.array([number[group] for group in groups.tolist()])
    return [np.flatnonzero(fold == one) for one in range(min(folds, len(names)))]
