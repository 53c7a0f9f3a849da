"""Scores of class probabilities, and the interval of a headline by resampling patients.

Shapes: n rows (slides or patches), K classes, G patients of a fold, R resamples. A prediction is the most probable
class (ties: the first); no threshold is tuned. Scores equal scikit-learn's; resamples are computed from sufficient
statistics per patient, which is exact and keeps 2,000 of them to seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

METRICS: tuple[str, ...] = ("auroc", "balanced_accuracy", "macro_f1", "accuracy")
FEWEST_PATIENTS = 10
FEWEST_OF_A_CLASS = 5
_BLOCK = 128


@dataclass(frozen=True)
class Score:
    """One metric on one set of rows; None with the reason where it is not defined."""

    value: float | None
    reason: str = ""


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
class Predictions:
    """Out-of-fold probabilities (n, K) of rows with their truth (n,), fold (n,) and patient (n,)."""

    truth: Labels
    probability: Floats
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]
    classes: Sequence[str] = field(default_factory=tuple)

    def fold_names(self) -> list[str]:
        """Folds in order: numbers as numbers."""
        return sorted(set(self.fold.tolist()), key=lambda name: (len(name), name))


def score(metric: str, truth: Labels, probability: Floats, classes: Sequence[str]) -> Score:
    """One metric on rows; AUROC is that of the second class of two, or the mean of one-versus-rest over all K.

    Undefined, with the reason: all but accuracy on rows of a single class; multi-class AUROC where a class is absent.
    """
    present = np.unique(truth)
    if len(present) == 0:
        return Score(None, "no rows")
    if metric == "accuracy":
        return Score(float(accuracy_score(truth, probability.argmax(1))))
    if len(present) < 2:
        return Score(None, f"only class '{classes[present[0]]}' is present")
    if metric == "auroc":
        absent = [name for number, name in enumerate(classes) if number not in present]
        if absent:
            return Score(None, f"class '{absent[0]}' is absent")
        columns = [1] if len(classes) == 2 else range(len(classes))
        return Score(float(np.mean([roc_auc_score(truth == c, probability[:, c]) for c in columns])))
    predicted = probability.argmax(1)
    if metric == "balanced_accuracy":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y_pred contains classes not in y_true", UserWarning)
            return Score(float(balanced_accuracy_score(truth, predicted)))
    return Score(float(f1_score(truth, predicted, average="macro", zero_division=0)))


def headlines(
    predictions: Predictions, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Headline]:
    """Every metric: its mean over the folds where it is defined, per fold, pooled, and with its interval.

    Interval: patients are resampled with replacement within each fold, stratified by class; the metric is computed in
    each fold and averaged over the folds; the interval is between percentiles of that average. It is conditional on
    the fitted models. There is none below 10 patients, below 5 patients of a class, or where a fold has a single
    patient of a class, since resampling could not vary it.
    """
    names = predictions.fold_names()
    refusal = _why_no_interval(predictions, resamples)
    sampled = None if refusal else _resample(predictions, resamples, seed)
    result = {}
    for metric in METRICS:
        folds = {}
        for name in names:
            rows = predictions.fold == name
            folds[name] = score(metric, predictions.truth[rows], predictions.probability[rows], predictions.classes)
        defined = [one.value for one in folds.values() if one.value is not None]
        value = float(np.mean(defined)) if defined else None
        reason = "" if defined else next(iter(folds.values())).reason
        low = high = None
        if sampled is not None and defined:
            tail = 100 * (1 - confidence) / 2
            low, high = (float(edge) for edge in np.nanpercentile(sampled[metric], [tail, 100 - tail]))
        pooled = score(metric, predictions.truth, predictions.probability, predictions.classes)
        result[metric] = Headline(metric, value, reason, low, high, refusal or reason, folds, pooled)
    return result


def per_patient(predictions: Predictions) -> list[dict[str, Any]]:
    """Each patient's own scores: what stands in place of an interval where there are too few patients for one."""
    rows = []
    for name in sorted(set(predictions.patient.tolist())):
        mine = predictions.patient == name
        truth, probability = predictions.truth[mine], predictions.probability[mine]
        scores = {metric: score(metric, truth, probability, predictions.classes).value for metric in METRICS}
        rows.append({"patient_id": name, "rows": int(mine.sum()), "fold": str(predictions.fold[mine][0]), **scores})
    return rows


def confusion(truth: Labels, probability: Floats, classes: int) -> NDArray[np.int64]:
    """Counts (K, K): rows are the truth, columns the prediction."""
    return np.bincount(truth * classes + probability.argmax(1), minlength=classes**2).reshape(classes, classes)


def roc(truth: Labels, probability: Floats, positive: int) -> tuple[Floats, Floats]:
    """False- and true-positive rates of one class against the rest; both classes must be present."""
    false_rate, true_rate, _ = roc_curve(truth == positive, probability[:, positive])
    return false_rate, true_rate


def _why_no_interval(predictions: Predictions, resamples: int) -> str:
    if resamples == 0:
        return "no resamples were asked for"
    patients = len(np.unique(predictions.patient))
    if patients < FEWEST_PATIENTS:
        return f"{patients} patients, fewer than {FEWEST_PATIENTS}"
    for number, name in enumerate(predictions.classes):
        mine = predictions.truth == number
        count = len(np.unique(predictions.patient[mine]))
        if count < FEWEST_OF_A_CLASS:
            return f"{count} patients of class '{name}', fewer than {FEWEST_OF_A_CLASS}"
        for fold in predictions.fold_names():
            if len(np.unique(predictions.patient[mine & (predictions.fold == fold)])) == 1:
                return f"fold {fold} has one patient of class '{name}', whom resampling cannot vary"
    return ""


def _resample(predictions: Predictions, resamples: int, seed: int) -> Mapping[str, Floats]:
    """Each metric's mean over folds in each resample, (R,)."""
    per_fold: dict[str, list[Floats]] = {metric: [] for metric in METRICS}
    for number, name in enumerate(predictions.fold_names()):
        rows = predictions.fold == name
        fold = _Fold.of(predictions, rows)
        weights = _draw(fold.stratum, resamples, np.random.default_rng([seed, number]))
        for metric, values in fold.scores(weights).items():
            per_fold[metric].append(values)
    return {metric: _mean_of_defined(np.stack(values)) for metric, values in per_fold.items()}


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over axis 0, leaving NaN out; NaN where nothing is defined."""
    defined = np.isfinite(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _draw(stratum: Labels, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each patient is drawn, (R, G): each stratum is drawn as often as it has patients."""
    weights = np.zeros((resamples, len(stratum)))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return weights


@dataclass(frozen=True)
class _Fold:
    """One fold's rows with patients numbered 0 .. G-1 in the order of their names."""

    truth: Labels
    probability: Floats
    patient: Labels
    stratum: Labels

    @classmethod
    def of(cls, predictions: Predictions, rows: NDArray[np.bool_]) -> _Fold:
        truth, probability = predictions.truth[rows], predictions.probability[rows]
        _, patient = np.unique(predictions.patient[rows], return_inverse=True)
        counts = np.bincount(
            patient * probability.shape[1] + truth, minlength=(patient.max() + 1) * probability.shape[1]
        )
        return cls(truth, probability, patient, _strata(counts.reshape(-1, probability.shape[1])))

    @property
    def patients(self) -> int:
        return len(self.stratum)

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Every metric under patients' weights (R, G): (R,) each, NaN where undefined."""
        classes = self.probability.shape[1]
        cells = (self.patient * classes + self.truth) * classes + self.probability.argmax(1)
        counts = np.bincount(cells, minlength=self.patients * classes**2).reshape(self.patients, classes**2)
        tables = (weights @ counts).reshape(-1, classes, classes)
        right, support, predicted = tables.diagonal(axis1=1, axis2=2), tables.sum(2), tables.sum(1)
        several = (support > 0).sum(1) > 1
        recall = np.where(support > 0, right / np.maximum(support, 1), np.nan)
        either = support + predicted
        f1 = np.where(either > 0, 2 * right / np.maximum(either, 1), np.nan)
        columns = [1] if classes == 2 else range(classes)
        return {
            "auroc": np.mean([self._auroc(c, weights) for c in columns], axis=0),
            "balanced_accuracy": np.where(several, _mean_of_defined(recall.T), np.nan),
            "macro_f1": np.where(several, _mean_of_defined(f1.T), np.nan),
            "accuracy": right.sum(1) / support.sum(1),
        }

    def _auroc(self, c: int, weights: Floats) -> Floats:
        positive, values = self.truth == c, self.probability[:, c]
        if len(values) < self.patients**2:
            return auroc_by_rank(values, positive, self.patient, weights)
        return auroc_by_pairs(values, positive, self.patient, weights)


def _strata(counts: NDArray[np.int64]) -> Labels:
    """The stratum of each patient from its rows per class (G, K): its class, or "several"; loners join the largest."""
    stratum: Labels = np.where((counts > 0).sum(1) > 1, counts.shape[1], counts.argmax(1))
    values, sizes = np.unique(stratum, return_counts=True)
    largest = values[sizes.argmax()]
    stratum[np.isin(stratum, values[sizes == 1])] = largest
    return stratum


def auroc_by_rank(values: Floats, positive: NDArray[np.bool_], patient: Labels, weights: Floats) -> Floats:
    """Weighted AUROC of each resample, (R,): rows sorted once, then a running sum of the negatives' weights.

    Costs R n; ties count one half.
    """
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
    """Weighted AUROC of each resample, (R,): w^T A w with A[p, q] = positives of p that beat negatives of q.

    Costs n G log n once and R G^2 for all resamples; ties count one half.
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
