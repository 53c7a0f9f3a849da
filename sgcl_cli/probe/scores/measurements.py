"""Scores of predicted measurements: R2, mean absolute error, Spearman's rank correlation.

Shapes: n rows, G patients of a fold, R resamples. Scores are equal to those of scikit-learn and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from sgcl_cli.probe.scores.reported import MOST_UNDEFINED, Score, counted_patients, fold_names

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
METRICS = ("r2", "mae", "spearman")
FEWEST = {"r2": 20, "mae": 2, "spearman": 8}
_BLOCK = 128


@dataclass(frozen=True)
class Values:
    """Out-of-fold predictions ``value`` (n,) with truth, fold and patient (n,)."""

    metrics: ClassVar[tuple[str, ...]] = METRICS
    most_undefined: ClassVar[float] = MOST_UNDEFINED

    truth: Floats
    value: Floats
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        return score(metric, self.truth[rows], self.value[rows])

    def why_no_interval(self, metric: str) -> str:
        """The fold that has too few patients, "" if none; metrics with a more variable denominator need more patients."""
        fewest = FEWEST[metric]
        for name in fold_names(self):
            count = len(np.unique(self.patient[self.fold == name]))
            if count < fewest:
                return f"fold {name} has {counted_patients(count)}, fewer than {fewest}"
        return ""

    def witnesses(self, metric: str) -> int:
        """0: these scores are not shares of correct predictions."""
        return 0

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """No such component."""
        return ()

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledValues:
        """One fold, prepared for scoring under weights of the patients."""
        _, patient = np.unique(self.patient[rows], return_inverse=True)
        return ResampledValues(self.truth[rows], self.value[rows], patient)


def score(metric: str, truth: Floats, value: Floats) -> Score:
    """One metric; R2 needs different truths, Spearman different truths and predictions."""
    if not len(truth):
        return Score(None, "no rows")
    if metric == "mae":
        return Score(float(mean_absolute_error(truth, value)))
    if np.ptp(truth) == 0:
        return Score(None, "all measured values are equal")
    if metric == "r2":
        return Score(float(r2_score(truth, value)))
    if np.ptp(value) == 0:
        return Score(None, "all predicted values are equal")
    return Score(float(spearmanr(truth, value).statistic))


@dataclass(frozen=True)
class ResampledValues:
    """Rows of one fold with patients numbered 0 .. G-1, in one stratum."""

    truth: Floats
    value: Floats
    patient: Labels

    @property
    def stratum(self) -> Labels:
        """0 for every patient, (G,)."""
        return np.zeros(int(self.patient.max()) + 1, dtype=np.int64)

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Every metric under weights of the patients (R, G): (R,) each, NaN where undefined."""
        parts = [self._block(weights[start : start + _BLOCK]) for start in range(0, len(weights), _BLOCK)]
        return {metric: np.concatenate([part[metric] for part in parts]) for metric in METRICS}

    def _block(self, weights: Floats) -> dict[str, Floats]:
        w = weights[:, self.patient]
        total = w.sum(1)
        squares = w @ (self.truth - self.value) ** 2
        spread = w @ self.truth**2 - (w @ self.truth) ** 2 / total
        defined = spread > 1e-12 * (w @ self.truth**2)
        return {
            "r2": np.where(defined, 1 - squares / np.where(defined, spread, 1), np.nan),
            "mae": w @ np.abs(self.truth - self.value) / total,
            "spearman": _correlation(_midranks(self.truth, w), _midranks(self.value, w), w),
        }


def _midranks(values: Floats, weights: Floats) -> Floats:
    """Mid-rank of each row, up to a constant, if row i occurs weights[r, i] times; (R, n)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Floats = (np.cumsum(mass, axis=1) - mass / 2)[:, group]
    return ranks


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    total = weights.sum(1, keepdims=True)
    a = a - (weights * a).sum(1, keepdims=True) / total
    b = b - (weights * b).sum(1, keepdims=True) / total
    scale = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    correlation: Floats = (weights * a * b).sum(1) / np.where(scale > 0, scale, np.nan)
    return correlation
