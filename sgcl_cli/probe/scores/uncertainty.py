"""The interval of a headline by resampling patients, and how far folds and seeds spread.

A headline is the mean of a metric over folds. Its interval resamples patients with replacement within each fold,
stratified, recomputes the metric in each fold and averages; it is conditional on the fitted models. Where folds share
patients, as repeated random divisions do, a patient is drawn once for all of them. What is scored is behind
``Reported``: classes (metrics), decisions at a threshold (thresholds), calibration, survival, measurements.

Shapes: n rows, G patients of a fold, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Rows = NDArray[np.bool_]

FEWEST_PATIENTS = 10
FEWEST_OF_A_CLASS = 5


@dataclass(frozen=True)
class Score:
    """One metric on one set of rows; None with the reason where it is not defined."""

    value: float | None
    reason: str = ""


class Resampler(Protocol):
    """One fold's rows with patients numbered 0 .. G-1 in the order of their names."""

    @property
    def stratum(self) -> Labels:
        """Within which patients are exchanged, (G,)."""

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """Every metric under patients' weights (R, G): (R,) each, NaN where undefined."""


class Reported(Protocol):
    """Out-of-fold predictions of n rows with their truth, fold (n,) and patient (n,)."""

    @property
    def fold(self) -> NDArray[np.str_]: ...

    @property
    def patient(self) -> NDArray[np.str_]: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def score(self, metric: str, rows: Rows) -> Score: ...

    def why_no_interval(self) -> str: ...

    def resampler(self, rows: Rows) -> Resampler: ...


@dataclass(frozen=True)
class Headline:
    """The mean of a metric over folds, with the interval that belongs to this very number.

    ``low`` and ``high`` are None with ``no_interval`` saying why; ``pooled`` scores all folds' rows together.
    """

    metric: str
    value: float | None
    reason: str
    low: float | None
    high: float | None
    no_interval: str
    folds: dict[str, Score]
    pooled: Score

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "value": self.value,
            "reason": self.reason,
            "low": self.low,
            "high": self.high,
            "no_interval": self.no_interval,
            "folds": {name: {"value": score.value, "reason": score.reason} for name, score in self.folds.items()},
            "pooled": {"value": self.pooled.value, "reason": self.pooled.reason},
        }


@dataclass(frozen=True)
class Spread:
    """How far a metric moves besides chance of patients: standard deviations (n - 1) over folds, and over seeds.

    ``folds``: of the folds' scores, seeds averaged first; ``seeds``: of each seed's mean over folds. None below two.
    """

    folds: float | None
    seeds: float | None


def fold_names(reported: Reported) -> list[str]:
    """Folds in order: numbers as numbers."""
    return sorted(set(reported.fold.tolist()), key=lambda name: (len(name), name))


def headlines(
    reported: Reported, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Headline]:
    """Every metric: its mean over the folds where it is defined, per fold, pooled, and with its interval.

    The interval is between percentiles of the resampled headline. There is none below 10 patients or where the
    predictions say so themselves (fewer than 5 patients of a class; a fold with one, whom resampling cannot vary).
    """
    refusal = why_no_interval(reported, resamples)
    sampled = None if refusal else resample(reported, resamples, seed)
    everything = np.ones(len(reported.patient), dtype=bool)
    result = {}
    for metric in reported.metrics:
        folds = {name: reported.score(metric, reported.fold == name) for name in fold_names(reported)}
        value, reason = mean_of_scores(folds)
        low = high = None
        if sampled is not None and value is not None:
            low, high = interval(sampled[metric], confidence)
        pooled = reported.score(metric, everything)
        result[metric] = Headline(metric, value, reason, low, high, refusal or reason, folds, pooled)
    return result


def mean_of_scores(folds: Mapping[str, Score]) -> tuple[float | None, str]:
    """The mean over the folds where the metric is defined; None with the first reason where it is in none."""
    defined = [one.value for one in folds.values() if one.value is not None]
    return (float(np.mean(defined)), "") if defined else (None, next(iter(folds.values())).reason)


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """Percentiles of resampled values (R,), NaN left out."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def spread(headline: Headline, of_seeds: Sequence[Headline]) -> Spread:
    """Of the headline of averaged seeds over its folds, and of the seeds' own headlines."""
    folds = [score.value for score in headline.folds.values() if score.value is not None]
    seeds = [one.value for one in of_seeds if one.value is not None]
    deviations = [float(np.std(values, ddof=1)) if len(values) > 1 else None for values in (folds, seeds)]
    return Spread(*deviations)


def _patients(count: int) -> str:
    return f"{count} patient" + "s" * (count != 1)


def why_no_interval(reported: Reported, resamples: int) -> str:
    """Why there is no interval, "" where there is one."""
    if resamples == 0:
        return "no resamples were asked for"
    patients = len(np.unique(reported.patient))
    if patients < FEWEST_PATIENTS:
        return f"{_patients(patients)}, fewer than {FEWEST_PATIENTS}"
    return reported.why_no_interval()


def too_few(
    names: Mapping[int, str], label: Labels, fold: NDArray[np.str_], patient: NDArray[np.str_], kind: str = "class"
) -> str:
    """Whether a class has fewer than 5 patients, or only one in some fold; "" where not."""
    for number, name in names.items():
        mine = label == number
        count = len(np.unique(patient[mine]))
        if count < FEWEST_OF_A_CLASS:
            return f"{_patients(count)} of {kind} '{name}', fewer than {FEWEST_OF_A_CLASS}"
        for one in sorted(set(fold.tolist()), key=lambda text: (len(text), text)):
            if len(np.unique(patient[mine & (fold == one)])) == 1:
                return f"fold {one} has one patient of {kind} '{name}', whom resampling cannot vary"
    return ""


def resample(reported: Reported, resamples: int, seed: int) -> dict[str, Floats]:
    """Each metric's mean over folds in each resample, (R,); equal draws for equal patients, folds, strata and seed."""
    per_fold: dict[str, list[Floats]] = {metric: [] for metric in reported.metrics}
    shared = _drawn_for_all(reported, resamples, seed)
    for number, name in enumerate(fold_names(reported)):
        mine = reported.fold == name
        fold = reported.resampler(mine)
        if shared is None:
            weights = draw(fold.stratum, resamples, np.random.default_rng([seed, number]))
        else:
            weights = shared[:, np.isin(np.unique(reported.patient), reported.patient[mine])]
        for metric, values in fold.scores(weights).items():
            per_fold[metric].append(values)
    return {metric: mean_of_defined(np.stack(values)) for metric, values in per_fold.items()}


def _drawn_for_all(reported: Reported, resamples: int, seed: int) -> Floats | None:
    """How often each patient is drawn, (R, G), for all folds at once, where several report a patient; None where none does.

    Folds that share patients are not independent: draws of their own would make the mean over them too certain.
    """
    names, patient = np.unique(reported.patient, return_inverse=True)
    folds, fold = np.unique(reported.fold, return_inverse=True)
    if len(np.unique(patient * len(folds) + fold)) == len(names):
        return None
    everybody = reported.resampler(np.ones(len(reported.patient), dtype=bool))
    return draw(everybody.stratum, resamples, np.random.default_rng([seed, 0]))


def mean_of_defined(values: Floats) -> Floats:
    """Mean over axis 0, leaving NaN out; NaN where nothing is defined."""
    defined = np.isfinite(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def draw(stratum: Labels, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each patient is drawn, (R, G): each stratum is drawn as often as it has patients."""
    weights = np.zeros((resamples, len(stratum)))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return weights


def strata(counts: NDArray[np.int64]) -> Labels:
    """The stratum of each patient from its rows per class (G, K): its class, or "several"; loners join the largest."""
    stratum: Labels = np.where((counts > 0).sum(1) > 1, counts.shape[1], counts.argmax(1))
    values, sizes = np.unique(stratum, return_counts=True)
    largest = values[sizes.argmax()]
    stratum[np.isin(stratum, values[sizes == 1])] = largest
    return stratum


def rows_per_patient(patient: NDArray[np.str_], label: Labels, classes: int) -> tuple[Labels, NDArray[np.int64]]:
    """Patients numbered in the order of their names, (n,), and how many rows of each class they have, (G, K)."""
    _, number = np.unique(patient, return_inverse=True)
    counts = np.bincount(number * classes + label, minlength=(number.max(initial=-1) + 1) * classes)
    return number, counts.reshape(-1, classes)
