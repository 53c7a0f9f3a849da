"""The linear probe: logistic regression on standardised frozen features, its C chosen on validation rows only.

Loss and solver are scikit-learn's ``LogisticRegression``: ``C * sum of cross-entropies + |w|^2 / 2``, L-BFGS.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

Floats = NDArray[np.float64]
C_PATH: tuple[float, ...] = tuple(10.0**power for power in range(-5, 3))
C_DEFAULT = 1.0
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and standard deviation of the rows a model was fitted on; constant features get scale 1."""

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, features: NDArray[np.floating]) -> Standardiser:
        """From rows (N, D)."""
        mean = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        constant = spread <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(mean, np.where(constant, 1.0, spread))

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        standardised: Floats = (features.astype(np.float64) - self.mean) / self.scale
        return standardised


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: class probabilities (N, K) from features (N, D).

    ``path`` holds the validation cross-entropy of each C tried, empty where there were no validation rows.
    """

    standardise: Standardiser
    model: LogisticRegression
    classes: int
    c: float
    converged: bool
    path: dict[float, float]

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        return _spread(self.model, self.standardise(features), self.classes)


def fit(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    classes: int,
    path: Sequence[float] = C_PATH,
) -> LinearProbe:
    """Choose C by the cross-entropy on ``validation``, then fit again on training and validation rows together.

    The path is walked from strong to weak regularisation, each fit starting from the one before. Ties take the
    stronger regularisation. Without validation rows C is 1.

    :param features: (N, D); labels: (N,) in [0, ``classes``); train and validation: row numbers.
    """
    losses: dict[float, float] = {}
    if len(validation):
        standardise = Standardiser.fit(features[train])
        inside, outside = standardise(features[train]), standardise(features[validation])
        model = _regression(path[0], warm_start=True)
        for c in path:
            model.set_params(C=c)
            _fit(model, inside, labels[train])
            losses[c] = float(log_loss(labels[validation], _spread(model, outside, classes), labels=np.arange(classes)))
    best = min(losses, key=lambda c: (losses[c], c)) if losses else C_DEFAULT
    fitted = np.sort(np.concatenate([train, validation]))
    standardise = Standardiser.fit(features[fitted])
    model = _regression(best)
    converged = _fit(model, standardise(features[fitted]), labels[fitted])
    return LinearProbe(standardise, model, classes, best, converged, losses)


def _regression(c: float, *, warm_start: bool = False) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=MAX_ITERATIONS, warm_start=warm_start)


def _fit(model: LogisticRegression, features: Floats, labels: NDArray[np.int64]) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def _spread(model: LogisticRegression, features: Floats, classes: int) -> Floats:
    """Probabilities with a column for every class, also for those the model never saw."""
    full = np.zeros((len(features), classes))
    full[:, model.classes_] = model.predict_proba(features)
    return full
