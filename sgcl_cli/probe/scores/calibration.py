"""Calibration of probabilities: Brier score, calibration error, reliability bins.

Shapes: n rows, K classes, G patients of a fold, R resamples. With two classes the probability of the second is compared with
its frequency; with more, the highest probability with the accuracy (Guo, Pleiss, Sun, Weinberger 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.scores.probabilities import Probabilities
from sgcl_cli.probe.scores.reported import Score, rows_per_patient
from sgcl_cli.probe.scores.resampling import strata

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
METRICS = ("brier",)
BINS = 10
FEWEST_ROWS = 100


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width of the predicted probability: number of rows, mean prediction, observed share; NaN if empty."""

    edges: Floats
    count: Labels
    stated: Floats
    observed: Floats


class Calibrated(Probabilities):
    """Out-of-fold probabilities, scored by their squared error."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        if not rows.any():
            return Score(None, "no rows")
        return Score(float(squared_errors(self.truth[rows], self.probability[rows]).mean()))

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledCalibration:
        """One fold, prepared for scoring under weights of the patients."""
        truth, probability = self.truth[rows], self.probability[rows]
        patient, counts = rows_per_patient(self.patient[rows], truth, probability.shape[1])
        squares = np.bincount(patient, squared_errors(truth, probability), minlength=len(counts)).astype(np.float64)
        return ResampledCalibration(strata(counts), counts.sum(1), squares)


@dataclass(frozen=True)
class ResampledCalibration:
    """For each patient the number of rows (G,) and their sum of squared errors (G,)."""

    stratum: Labels
    rows: Labels
    squares: Floats

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """The Brier score under weights of the patients (R, G): (R,)."""
        return {"brier": weights @ self.squares / (weights @ self.rows)}


def squared_errors(truth: Labels, probability: Floats) -> Floats:
    """Squared errors of the rows (n,) (Brier 1950): (p - y)^2 of the second of two classes, sum_k (p_k - y_k)^2 of more."""
    if probability.shape[1] == 2:
        errors: Floats = (probability[:, 1] - truth) ** 2
        return errors
    errors = ((probability - np.eye(probability.shape[1])[truth]) ** 2).sum(1)
    return errors


def calibration_error(truth: Labels, probability: Floats, patient: NDArray[np.str_]) -> Score:
    """ECE = sqrt(sum over bins of (rows in the bin / n) gap^2), gap = mean predicted probability - observed share, debiased.

    gap^2 is the mean of (predicted - observed)(predicted - observed)' over pairs of rows of different patients, so chance
    adds no bias (Kumar, Liang, Ma 2019, here with patients instead of rows). A negative sum is set to 0. Undefined below 100
    rows, where perfect probabilities would still have an ECE of 0.04 on average.
    """
    if len(truth) < FEWEST_ROWS:
        return Score(None, f"{len(truth)} rows, fewer than {FEWEST_ROWS}")
    _, number = np.unique(patient, return_inverse=True)
    stated, right = _stated(truth, probability)
    cell, shape = number * BINS + _bin(stated), (number.max() + 1, BINS)
    gaps = np.bincount(cell, stated - right, minlength=shape[0] * BINS).reshape(shape)
    rows = np.bincount(cell, minlength=shape[0] * BINS).reshape(shape)
    count = rows.sum(0)
    pairs = count**2 - (rows**2).sum(0)
    known = pairs > 0
    if not known.any():
        return Score(None, "no two patients in one bin")
    squares = (gaps.sum(0) ** 2 - (gaps**2).sum(0))[known] / pairs[known]
    return Score(float(np.sqrt(max(0.0, (count[known] * squares).sum() / count[known].sum()))))


def reliability(truth: Labels, probability: Floats) -> Reliability:
    """The bins of the reliability diagram; the last includes probability 1."""
    stated, right = _stated(truth, probability)
    number = _bin(stated)
    count = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, values, minlength=BINS) for values in (stated, right)]
    means = [np.where(count > 0, total / np.maximum(count, 1), np.nan) for total in sums]
    return Reliability(np.linspace(0, 1, BINS + 1), count, *means)


def _stated(truth: Labels, probability: Floats) -> tuple[Floats, Floats]:
    if probability.shape[1] == 2:
        return probability[:, 1], (truth == 1).astype(np.float64)
    chosen = probability.argmax(1)
    return probability[np.arange(len(truth)), chosen], (chosen == truth).astype(np.float64)


def _bin(stated: Floats) -> Labels:
    return np.minimum((stated * BINS).astype(np.int64), BINS - 1)
