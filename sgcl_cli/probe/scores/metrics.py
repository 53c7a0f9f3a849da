"""Scores of class probabilities.

Shapes: n rows (slides or patches), K classes, G patients of a fold, R resamples. A prediction is the most probable
class (ties: the first); no threshold is tuned. Scores equal scikit-learn's; resamples are computed from sufficient
statistics per patient, which is exact and keeps 2,000 of them to seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from sgcl_cli.probe.scores.auroc import resampled_auroc
from sgcl_cli.probe.scores.probabilities import Probabilities
from sgcl_cli.probe.scores.uncertainty import Score, mean_of_defined, rows_per_patient, strata

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

METRICS: tuple[str, ...] = ("auroc", "balanced_accuracy", "macro_f1", "accuracy")


class Predictions(Probabilities):
    """Out-of-fold probabilities, scored by how well they tell the classes apart."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        return score(metric, self.truth[rows], self.probability[rows], self.classes)

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledFold:
        """One fold, ready to be scored under patients' weights."""
        return ResampledFold.of(self, rows)


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


def precision_recall(truth: Labels, probability: Floats, positive: int) -> tuple[Floats, Floats, float]:
    """Recall and precision as the threshold rises, and the average precision, of one class; it must be present."""
    called, scores = truth == positive, probability[:, positive]
    precision, recall, _ = precision_recall_curve(called, scores)
    return recall, precision, float(average_precision_score(called, scores))


@dataclass(frozen=True)
class ResampledFold:
    """One fold's rows with patients numbered 0 .. G-1 in the order of their names."""

    truth: Labels
    probability: Floats
    patient: Labels
    stratum: Labels

    @classmethod
    def of(cls, predictions: Predictions, rows: NDArray[np.bool_]) -> ResampledFold:
        truth, probability = predictions.truth[rows], predictions.probability[rows]
        patient, counts = rows_per_patient(predictions.patient[rows], truth, probability.shape[1])
        return cls(truth, probability, patient, strata(counts))

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
            "auroc": np.mean(
                [resampled_auroc(self.probability[:, c], self.truth == c, self.patient, weights) for c in columns],
                axis=0,
            ),
            "balanced_accuracy": np.where(several, mean_of_defined(recall.T), np.nan),
            "macro_f1": np.where(several, mean_of_defined(f1.T), np.nan),
            "accuracy": right.sum(1) / support.sum(1),
        }
