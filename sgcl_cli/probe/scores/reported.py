"""Protocols of out-of-fold predictions that can be scored: on all rows, per fold, and under resampling.

Shapes: n rows, G patients of a fold, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Rows = NDArray[np.bool_]

FEWEST_PATIENTS = 10
FEWEST_OF_A_CLASS = 5
FEWEST_MIXED = 4
MOST_UNDEFINED = 0.1


@dataclass(frozen=True)
class Score:
    """One metric on one set of rows; None, with the reason, if undefined."""

    value: float | None
    reason: str = ""


class Resampler(Protocol):
    """Rows of one fold with patients numbered 0 .. G-1 in the order of their names."""

    @property
    def stratum(self) -> Labels:
        """The stratum of each patient, (G,); patients are drawn within strata."""

    def scores(self, weights: Floats) -> Mapping[str, Floats]:
        """Every metric under weights of the patients (R, G): (R,) each, NaN where undefined."""


class Reported(Protocol):
    """Out-of-fold predictions of n rows with truth, fold (n,) and patient (n,)."""

    @property
    def fold(self) -> NDArray[np.str_]: ...

    @property
    def patient(self) -> NDArray[np.str_]: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def most_undefined(self) -> float:
        """Largest share of resamples with an undefined metric for which there is an interval."""

    def score(self, metric: str, rows: Rows) -> Score: ...

    def resampler(self, rows: Rows) -> Resampler: ...

    def why_no_interval(self, metric: str) -> str:
        """Why the design allows no interval of the metric, "" if it does."""

    def witnesses(self, metric: str) -> int:
        """Number of patients, or disjoint pairs, that must all be correct for a perfect score; 0 if not applicable."""

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """(variance, degrees of freedom) of components that resampling cannot show, such as a class with recall 1."""


def fold_names(reported: Reported) -> list[str]:
    """Sorted names of the folds: by length, then by name, so that numbers are in order."""
    return sorted(set(reported.fold.tolist()), key=lambda name: (len(name), name))


def mean_of_scores(folds: Mapping[str, Score]) -> tuple[float | None, str]:
    """The mean over the folds where the metric is defined; None, with the first reason, if there is none."""
    defined = [one.value for one in folds.values() if one.value is not None]
    return (float(np.mean(defined)), "") if defined else (None, next(iter(folds.values())).reason)


def why_no_interval(reported: Reported, metric: str, resamples: int) -> str:
    """Why there is no interval of a metric, "" if there may be one."""
    if resamples == 0:
        return "no resamples (--bootstrap 0)"
    patients = len(np.unique(reported.patient))
    if patients < FEWEST_PATIENTS:
        return f"{counted_patients(patients)}, fewer than {FEWEST_PATIENTS}"
    return reported.why_no_interval(metric)


def counted_patients(count: int) -> str:
    """``1 patient``, ``2 patients``."""
    return f"{count} patient" + "s" * (count != 1)


def too_few(
    names: Mapping[int, str], label: Labels, fold: NDArray[np.str_], patient: NDArray[np.str_], kind: str = "class"
) -> str:
    """The class with fewer than 5 patients, or only one in some fold; "" if none."""
    for number, name in names.items():
        mine = label == number
        count = len(np.unique(patient[mine]))
        if count < FEWEST_OF_A_CLASS:
            return f"{counted_patients(count)} of {kind} '{name}', fewer than {FEWEST_OF_A_CLASS}"
        for one in sorted(set(fold.tolist()), key=lambda text: (len(text), text)):
            if len(np.unique(patient[mine & (fold == one)])) == 1:
                return f"fold {one} has one patient of {kind} '{name}', whom resampling cannot vary"
    return ""


def too_mixed(label: Labels, fold: NDArray[np.str_], patient: NDArray[np.str_]) -> str:
    """The fold with fewer than 4 patients if patients have several classes; "" if none.

    Pairs of rows of the same patient then dominate the fold, so that its AUROC says little about other patients.
    """
    pairs = np.unique(np.stack([np.unique(patient, return_inverse=True)[1], label]), axis=1)
    if np.bincount(pairs[0]).max(initial=0) < 2:
        return ""
    for one in sorted(set(fold.tolist()), key=lambda text: (len(text), text)):
        count = len(np.unique(patient[fold == one]))
        if count < FEWEST_MIXED:
            return f"fold {one} has {counted_patients(count)}, fewer than {FEWEST_MIXED}, and patients hold several classes"
    return ""


def rows_per_patient(patient: NDArray[np.str_], label: Labels, classes: int) -> tuple[Labels, NDArray[np.int64]]:
    """Number of the patient of each row (n,), in the order of their names, and rows per patient and class (G, K)."""
    _, number = np.unique(patient, return_inverse=True)
    counts = np.bincount(number * classes + label, minlength=(number.max(initial=-1) + 1) * classes)
    return number, counts.reshape(-1, classes)
