"""Scores of class probabilities.

Shapes: n rows (slides or patches), K classes, G patients of a fold, R resamples. A prediction is the most probable
class (ties: the first); no threshold is tuned. Scores are equal to those of scikit-learn. Resamples are computed exactly
from sufficient statistics per patient, so that 2,000 of them take seconds.
"""

from __future__ import annotations

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
from sgcl_cli.probe.scores.reported import Score, rows_per_patient, too_mixed
from sgcl_cli.probe.scores.resampling import strata

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

METRICS: tuple[str, ...] = ("auroc", "balanced_accuracy", "macro_f1", "accuracy")


class Predictions(Probabilities):
    """Out-of-fold probabilities, scored by the discrimination of the classes."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """One metric on some of the rows."""
        return score(metric, self.truth[rows], self.probability[rows], self.classes)

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledFold:
        """One fold, prepared for scoring under weights of the patients."""
        return ResampledFold.of(self, rows)

    def why_no_interval(self, metric: str) -> str:
        """Why there is no interval: a class, or for AUROC a fold of mixed patients, has too few patients; "" if there is one."""
        why = super().why_no_interval(metric)
        return why or (too_mixed(self.truth, self.fold, self.patient) if metric == "auroc" else "")

    def witnesses(self, metric: str) -> int:
        """For accuracy the number of patients; else the patients of the rarest class of each fold, summed."""
        if metric == "accuracy":
            return len(np.unique(self.patient))
        return sum(self._fewest(self.fold == name) for name in np.unique(self.fold))

    def _fewest(self, rows: NDArray[np.bool_]) -> int:
        """Patients of the rarest class; if patients have several classes, G / K, so that none counts twice."""
        _, counts = rows_per_patient(self.patient[rows], self.truth[rows], len(self.classes))
        held = counts > 0
        several = bool((held.sum(1) > 1).any())
        return len(held) // len(self.classes) if several else int(held.sum(0).min())

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """For balanced accuracy, the variance of classes with a recall of 0 or 1, of m patients each.

        It is that of a share of m + 2 patients with one exception (rule of succession, Laplace). Not for a model with
        constant predictions, which scores 1 / K on any patients.
        """
        predicted = self.probability.argmax(1)
        constant = all(len(np.unique(predicted[self.fold == name])) == 1 for name in np.unique(self.fold))
        if metric != "balanced_accuracy" or constant:
            return ()
        right = predicted == self.truth
        found = []
        for number in range(len(self.classes)):
            mine = self.truth == number
            if right[mine].all() or not right[mine].any():
                m = len(np.unique(self.patient[mine]))
                share = (m + 1) / (m + 2)
                found.append((share * (1 - share) / (m + 3) / len(self.classes) ** 2, max(m - 1, 1)))
        return found


def score(metric: str, truth: Labels, probability: Floats, classes: Sequence[str]) -> Score:
    """One metric; AUROC is that of the second of two classes, or the mean of one-versus-rest over all K.

    All metrics but accuracy are undefined, with the reason, if one of ``classes`` is absent from the rows.
    """
    present = np.unique(truth)
    if len(present) == 0:
        return Score(None, "no rows")
    if metric == "accuracy":
        return Score(float(accuracy_score(truth, probability.argmax(1))))
    if len(present) < 2:
        return Score(None, f"only class '{classes[present[0]]}' is present")
    absent = [name for number, name in enumerate(classes) if number not in present]
    if absent:
        return Score(None, f"class '{absent[0]}' is absent")
    if metric == "auroc":
        columns = [1] if len(classes) == 2 else range(len(classes))
        return Score(float(np.mean([roc_auc_score(truth == c, probability[:, c]) for c in columns])))
    predicted = probability.argmax(1)
    if metric == "balanced_accuracy":
        return Score(float(balanced_accuracy_score(truth, predicted)))
    return Score(float(f1_score(truth, predicted, average="macro", zero_division=0)))


def per_patient(predictions: Predictions) -> list[dict[str, Any]]:
    """Scores of each patient, reported instead of an interval if there are too few patients."""
    rows = []
    for name in sorted(set(predictions.patient.tolist())):
        mine = predictions.patient == name
        truth, probability = predictions.truth[mine], predictions.probability[mine]
        scores = {metric: score(metric, truth, probability, predictions.classes).value for metric in METRICS}
        rows.append({"patient_id": name, "rows": int(mine.sum()), "fold": str(predictions.fold[mine][0]), **scores})
    return rows


def confusion(truth: Labels, probability: Floats, classes: int) -> NDArray[np.int64]:
    """Confusion matrix (K, K): rows are the truth, columns the prediction."""
    return np.bincount(truth * classes + probability.argmax(1), minlength=classes**2).reshape(classes, classes)


def roc(truth: Labels, probability: Floats, positive: int) -> tuple[Floats, Floats]:
    """False- and true-positive rates of one class against the rest; both classes must be present."""
    false_rate, true_rate, _ = roc_curve(truth == positive, probability[:, positive])
    return false_rate, true_rate


def precision_recall(truth: Labels, probability: Floats, positive: int) -> tuple[Floats, Floats, float]:
    """Recall and precision at increasing thresholds, and the average precision, of one class; it must be present."""
    called, scores = truth == positive, probability[:, positive]
    precision, recall, _ = precision_recall_curve(called, scores)
    return recall, precision, float(average_precision_score(called, scores))


@dataclass(frozen=True)
class ResampledFold:
    """Rows of one fold with patients numbered 0 .. G-1 in the order of their names."""

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
        """Every metric under weights of the patients (R, G): (R,) each, NaN where undefined."""
        classes = self.probability.shape[1]
        cells = (self.patient * classes + self.truth) * classes + self.probability.argmax(1)
        counts = np.bincount(cells, minlength=self.patients * classes**2).reshape(self.patients, classes**2)
        tables = (weights @ counts).reshape(-1, classes, classes)
        right, support, predicted = tables.diagonal(axis1=1, axis2=2), tables.sum(2), tables.sum(1)
        with np.errstate(invalid="ignore"):
            recall = right / np.where(support > 0, support, np.nan)
            f1 = 2 * right / np.where(support > 0, support + predicted, np.nan)
        columns = [1] if classes == 2 else range(classes)
        return {
            "auroc": np.mean(
                [resampled_auroc(self.probability[:, c], self.truth == c, self.patient, weights) for c in columns],
                axis=0,
            ),
            "balanced_accuracy": recall.mean(1),
            "macro_f1": f1.mean(1),
            "accuracy": right.sum(1) / support.sum(1),
        }
