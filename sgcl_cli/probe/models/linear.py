"""Linear probe: logistic regression on standardised frozen features, with C chosen on validation rows.

The loss is that of scikit-learn's ``LogisticRegression``, ``C * sum of cross-entropies + |w|^2 / 2``: one score for two
classes, softmax over K scores for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.models.penalised import Solution, walk
from sgcl_cli.probe.models.standardise import Standardiser

Floats = NDArray[np.float64]
C_PATH: tuple[float, ...] = tuple(10.0**power for power in range(-5, 3))
C_DEFAULT = 1.0
REFIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: class probabilities (N, K) from features (N, D).

    :ivar path: validation cross-entropy of each C; empty without validation rows.
    :ivar validation: probabilities (v, K) of the validation rows by the fit on the training rows at the chosen C, from which
        thresholds are chosen.
    :ivar converged: whether the last fit and every fit of the path reached the tolerance.
    """

    standardise: Standardiser
    solution: Solution
    present: NDArray[np.int64]
    classes: int
    path: dict[float, float]
    validation: Floats
    converged: bool

    @property
    def c(self) -> float:
        """The C chosen."""
        return self.solution.c

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        return probability(self.solution(self.standardise(features)), self.present, self.classes)


def fit(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    classes: int,
    path: Sequence[float] = C_PATH,
) -> LinearProbe:
    """Choose C by the cross-entropy on ``validation``, then refit on training and validation rows together.

    C runs from strong to weak regularisation with warm starts. Ties are broken towards stronger regularisation. Without
    validation rows C is 1.

    :param features: (N, D); labels: (N,) in [0, ``classes``); train and validation: row numbers.
    """
    losses: dict[float, float] = {}
    chosen, converged = np.empty((0, classes)), True
    best = C_DEFAULT
    if len(validation):
        standardise = Standardiser.fit(features[train])
        outside = standardise(features[validation])
        present = np.unique(labels[train])
        for solution in walk(standardise(features[train]), CrossEntropy.of(labels[train]), sorted(path)):
            predicted = probability(solution(outside), present, classes)
            losses[solution.c] = cross_entropy(predicted, labels[validation])
            converged &= solution.converged
            if losses[solution.c] == min(losses.values()) and list(losses.values()).count(losses[solution.c]) == 1:
                best, chosen = solution.c, predicted
    fitted = np.sort(np.concatenate([train, validation]))
    standardise = Standardiser.fit(features[fitted])
    (solution,) = walk(
        standardise(features[fitted]), CrossEntropy.of(labels[fitted]), [best], tolerance=REFIT_TOLERANCE
    )
    return LinearProbe(
        standardise, solution, np.unique(labels[fitted]), classes, losses, chosen, converged and solution.converged
    )


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of scores; ``truth`` (n, k) is one column of 0 and 1 for two classes, else one-hot."""

    truth: Floats

    @classmethod
    def of(cls, labels: NDArray[np.int64]) -> CrossEntropy:
        """From class numbers (n,); absent classes have no column."""
        present, number = np.unique(labels, return_inverse=True)
        if len(present) == 2:
            return cls(number[:, None].astype(np.float64))
        return cls(np.eye(len(present))[number])

    @property
    def outputs(self) -> int:
        """1 for two classes, else their number."""
        return int(self.truth.shape[1])

    @property
    def weight(self) -> float:
        """n."""
        return float(len(self.truth))

    def value(self, scores: Floats) -> tuple[float, Floats]:
        """The mean loss and its gradient (n, k)."""
        p, log_total = _normalised(scores)
        loss = (log_total - np.einsum("nk,nk->n", self.truth, scores)).mean()
        p -= self.truth
        p /= self.weight
        return float(loss), p

    def curvature(self, scores: Floats) -> Floats:
        """Mean of p (1 - p), (k,)."""
        p, _ = _normalised(scores)
        diagonal: Floats = (p * (1 - p)).mean(0)
        return diagonal


def cross_entropy(probability: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of - log p of the true class, with p at least the machine epsilon of float64 (as in scikit-learn)."""
    own = probability[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).eps)).mean())


def _normalised(scores: Floats) -> tuple[Floats, Floats]:
    """Softmax (n, k) of the scores, and the log of its denominator, (n,); a single score is compared with 0 (sigmoid)."""
    highest = scores.max(axis=1, keepdims=True)
    if scores.shape[1] == 1:
        highest = np.maximum(highest, 0)
    p: Floats = np.exp(scores - highest)
    total = p.sum(axis=1, keepdims=True)
    if scores.shape[1] == 1:
        total = total + np.exp(-highest)
    p /= total
    log_total: Floats = (np.log(total) + highest)[:, 0]
    return p, log_total


def probability(scores: Floats, present: NDArray[np.int64], classes: int) -> Floats:
    """Probabilities (n, ``classes``) from scores (n, k) of the classes ``present``; 0 for the others."""
    p, _ = _normalised(scores)
    full = np.zeros((len(scores), classes))
    full[:, present] = np.hstack([1 - p, p]) if p.shape[1] == 1 else p
    return full
