"""Whether probabilities mean what they say: Brier score, expected calibration error, reliability bins.

Shapes: n rows, K classes, G patients of a fold, R resamples. Two classes: the probability of the second against how
often it occurs. More: the highest probability against how often that class is right (Guo, Pleiss, Sun, Weinberger 2017).
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
METRICS = ("brier", "ece")
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Rows, mean stated probability and observed share in bins of equal width of the stated probability; NaN where empty."""

    edges: Floats
    count: Labels
    stated: Floats
    observed: Floats


class Calibrated(Probabilities):
    """Out-of-fold probabilities, scored by how far they are from what happens."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        if not rows.any():
            return Score(None, "no rows")
        if metric == "brier":
            return Score(float(squared_errors(self.truth[rows], self.probability[rows]).mean()))
        return Score(expected_error(self.truth[rows], self.probability[rows]))

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledCalibration:
        """One fold, ready to be scored under patients' weights."""
        truth, probability = self.truth[rows], self.probability[rows]
        patient, counts = rows_per_patient(self.patient[rows], truth, probability.shape[1])
        stated, right = _stated(truth, probability)
        cell = patient * BINS + _bin(stated)
        shape = (len(counts), BINS)
        gaps: Floats = np.bincount(cell, stated - right, minlength=len(counts) * BINS).astype(np.float64).reshape(shape)
        squares = np.bincount(patient, squared_errors(truth, probability), minlength=len(counts)).astype(np.float64)
        return ResampledCalibration(strata(counts), counts.sum(1), squares, gaps)


@dataclass(frozen=True)
class ResampledCalibration:
    """Sums over each patient's rows: how many (G,), squared errors (G,), stated minus right in each bin (G, bins)."""

    stratum: Labels
    rows: Labels
    squares: Floats
    gaps: Floats

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Both metrics under patients' weights (R, G): (R,) each."""
        total = weights @ self.rows
        return {"brier": weights @ self.squares / total, "ece": np.abs(weights @ self.gaps).sum(1) / total}


def squared_errors(truth: Labels, probability: Floats) -> Floats:
    """Brier 1950, a row: (p - y)^2 of the second of two classes, sum_k (p_k - y_k)^2 of more; (n,)."""
    if probability.shape[1] == 2:
        errors: Floats = (probability[:, 1] - truth) ** 2
        return errors
    errors = ((probability - np.eye(probability.shape[1])[truth]) ** 2).sum(1)
    return errors


def expected_error(truth: Labels, probability: Floats) -> float:
    """ECE = sum over bins of (rows in the bin / n) |mean stated probability - observed share|."""
    bins = reliability(truth, probability)
    filled = bins.count > 0
    gaps = np.abs(bins.stated[filled] - bins.observed[filled])
    return float((bins.count[filled] * gaps).sum() / len(truth))


def reliability(truth: Labels, probability: Floats) -> Reliability:
    """The bins of the reliability figure; rows of probability 1 are in the last."""
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
