"""Ridge regression on standardised frozen features, with alpha chosen on validation rows.

``|y - X w - b|^2 + alpha |w|^2`` as in scikit-learn's ``Ridge``; one decomposition of X serves every alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.models.standardise import Standardiser

Floats = NDArray[np.float64]
ALPHA_PATH: tuple[float, ...] = tuple(10.0**power for power in range(-2, 6))
ALPHA_DEFAULT = 1e3
_FLAT = 1e-12


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted model: values (N,) from features (N, D).

    :ivar path: validation mean squared error of each alpha; empty without validation rows.
    """

    standardise: Standardiser
    coefficients: Floats
    intercept: float
    alpha: float
    path: dict[float, float]

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        values: Floats = self.standardise(features) @ self.coefficients + self.intercept
        return values


def fit(
    features: NDArray[np.floating],
    values: Floats,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    path: Sequence[float] = ALPHA_PATH,
) -> RidgeProbe:
    """Choose alpha by the squared error on ``validation``, then refit on training and validation rows together.

    Ties take the larger alpha; without validation rows alpha is 1,000.

    :param features: (N, D); values: (N,); train and validation: row numbers.
    """
    errors: dict[float, float] = {}
    if len(validation):
        standardise, solve = _solver(features[train], values[train])
        outside = standardise(features[validation])
        for alpha in sorted(path, reverse=True):
            predicted = outside @ solve(alpha) + values[train].mean()
            errors[alpha] = float(((values[validation] - predicted) ** 2).mean())
    best = min(errors, key=lambda alpha: (errors[alpha], -alpha)) if errors else ALPHA_DEFAULT
    fitted = np.sort(np.concatenate([train, validation]))
    standardise, solve = _solver(features[fitted], values[fitted])
    return RidgeProbe(standardise, solve(best), float(values[fitted].mean()), best, errors)


@dataclass(frozen=True)
class _Axes:
    """X = Z V^T with orthogonal columns in V: ``rows`` Z (n, A), ``directions`` V (D, A), ``spread`` |z_a|^2 / n (A,)."""

    rows: Floats
    directions: Floats
    spread: Floats

    @classmethod
    def of(cls, features: Floats) -> _Axes:
        """The principal axes of rows (n, D) about the origin; axes without variance are left out."""
        n, dim = features.shape
        wide = n < dim
        values, vectors = np.linalg.eigh(features @ features.T if wide else features.T @ features)
        kept = values > _FLAT * max(float(values[-1]), np.finfo(np.float64).tiny)
        values, vectors = values[kept], vectors[:, kept]
        if wide:
            length = np.sqrt(values)
            return cls(vectors * length, features.T @ (vectors / length), values / n)
        return cls(features @ vectors, vectors, values / n)


class _Solver:
    def __init__(self, axes: _Axes, values: Floats) -> None:
        self.axes = axes
        self.target = axes.rows.T @ (values - values.mean())
        self.squares = axes.spread * len(values)

    def __call__(self, alpha: float) -> Floats:
        coefficients: Floats = self.axes.directions @ (self.target / (self.squares + alpha))
        return coefficients


def _solver(features: NDArray[np.floating], values: Floats) -> tuple[Standardiser, _Solver]:
    standardise = Standardiser.fit(features)
    return standardise, _Solver(_Axes.of(standardise(features)), values)
