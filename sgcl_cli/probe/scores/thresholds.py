"""Decisions at a threshold chosen on validation rows, scored on test rows.

A row is positive if its score is at least the threshold. Shapes: n rows, G patients of a fold, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from sgcl_cli.probe.scores.reported import MOST_UNDEFINED, Score, rows_per_patient, too_few
from sgcl_cli.probe.scores.resampling import strata

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
METRICS = ("sensitivity", "specificity", "ppv", "npv")
_CELLS = {"sensitivity": (3, 2), "specificity": (0, 1), "ppv": (3, 1), "npv": (0, 2)}
_UNDEFINED = {
    "sensitivity": "no positive row",
    "specificity": "no negative row",
    "ppv": "no row is called positive",
    "npv": "no row is called negative",
}


def youden(truth: NDArray[np.bool_], score: Floats) -> float | None:
    """The threshold with the highest sensitivity + specificity - 1 (Youden 1950), the highest of ties; None for one class."""
    if truth.all() or not truth.any():
        return None
    false_rate, true_rate, threshold = roc_curve(truth, score, drop_intermediate=False)
    return float(threshold[1:][(true_rate - false_rate)[1:].argmax()])


def sensitive(truth: NDArray[np.bool_], score: Floats, at_least: float = 0.95) -> float | None:
    """The highest threshold with a sensitivity of ``at_least``; None without positive rows."""
    if not truth.any():
        return None
    found = np.sort(score[truth])[::-1]
    needed = int(np.ceil(at_least * len(found) - 1e-9))
    return float(found[max(needed, 1) - 1])


@dataclass(frozen=True)
class Decisions:
    """Out-of-fold decisions ``called`` (n,) with truth, fold and patient (n,); folds without a threshold are left out.

    Headlines (``uncertainty.headlines``) are conditional on the thresholds, as on the models.
    """

    metrics: ClassVar[tuple[str, ...]] = METRICS
    most_undefined: ClassVar[float] = MOST_UNDEFINED

    truth: NDArray[np.bool_]
    called: NDArray[np.bool_]
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]

    @classmethod
    def at(
        cls,
        thresholds: dict[str, float | None],
        truth: NDArray[np.bool_],
        score: Floats,
        fold: NDArray[np.str_],
        patient: NDArray[np.str_],
    ) -> Decisions:
        """Decisions at the threshold of each fold."""
        known = np.array([thresholds.get(name) is not None for name in fold.tolist()], dtype=bool)
        level = np.array([np.inf if thresholds.get(name) is None else thresholds[name] for name in fold.tolist()])
        return cls(truth[known], (score >= level)[known], fold[known], patient[known])

    @property
    def cell(self) -> Labels:
        """0 true negative, 1 false positive, 2 false negative, 3 true positive; (n,)."""
        return 2 * self.truth.astype(np.int64) + self.called

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        counts = np.bincount(self.cell[rows], minlength=4)
        right, wrong = (int(counts[cell]) for cell in _CELLS[metric])
        if right + wrong == 0:
            return Score(None, _UNDEFINED[metric])
        return Score(right / (right + wrong))

    def why_no_interval(self, metric: str) -> str:
        """The class that has too few patients, "" if none."""
        return too_few({0: "negative", 1: "positive"}, self.truth.astype(np.int64), self.fold, self.patient)

    def witnesses(self, metric: str) -> int:
        """Patients in the denominator of the metric."""
        return len(np.unique(self.patient[np.isin(self.cell, _CELLS[metric])]))

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """No such component."""
        return ()

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledDecisions:
        """One fold, prepared for scoring under weights of the patients."""
        _, by_class = rows_per_patient(self.patient[rows], self.truth[rows].astype(np.int64), 2)
        _, by_cell = rows_per_patient(self.patient[rows], self.cell[rows], 4)
        return ResampledDecisions(strata(by_class), by_cell)


@dataclass(frozen=True)
class ResampledDecisions:
    """Rows per patient and cell, (G, 4)."""

    stratum: Labels
    counts: NDArray[np.int64]

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Every metric under weights of the patients (R, G): (R,) each, NaN where undefined."""
        table = weights @ self.counts
        shares = {}
        for metric, (right, wrong) in _CELLS.items():
            total = table[:, right] + table[:, wrong]
            shares[metric] = table[:, right] / np.where(total > 0, total, np.nan)
        return shares
