"""Linear models with a squared penalty along a path of C, each fit starting from the one before.

C L(X w + b) + |w|^2 / 2 is minimised by L-BFGS (scipy), L a sum over rows, as scikit-learn's estimators have it. Two
changes of variables leave the solution as it is and make the path short: rows are written in the principal axes of
X, and each coordinate is divided by the root of the Hessian's diagonal there, so that steep and flat directions look
alike to the solver.

Shapes: n rows, D features, A = min(n, D) axes at most, k scores a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]
MAX_ITERATIONS = 2000
TOLERANCE = 1e-5
_FLAT = 1e-12
_TIGHTENINGS = 3


class ScoreLoss(Protocol):
    """The mean loss of scores (n, k) over ``weight`` terms, with its gradient and the mean diagonal of its Hessian (k,)."""

    @property
    def outputs(self) -> int: ...

    @property
    def weight(self) -> float: ...

    def value(self, scores: Floats) -> tuple[float, Floats]: ...

    def curvature(self, scores: Floats) -> Floats: ...


@dataclass(frozen=True)
class Solution:
    """Coefficients (D, k) and intercept (k,) at one C.

    ``slope`` is the largest entry of the gradient of the mean loss plus penalty; ``converged`` compares it with the
    tolerance.
    """

    c: float
    coefficients: Floats
    intercept: Floats
    slope: float
    iterations: int
    converged: bool

    def __call__(self, features: Floats) -> Floats:
        """Scores (n, k) of rows (n, D)."""
        scores: Floats = features @ self.coefficients + self.intercept
        return scores


@dataclass(frozen=True)
class Axes:
    """X = Z V^T with orthogonal columns in V: ``rows`` Z (n, A), ``directions`` V (D, A), ``spread`` |z_a|^2 / n (A,)."""

    rows: Floats
    directions: Floats
    spread: Floats

    @classmethod
    def of(cls, features: Floats) -> Axes:
        """The principal axes of rows (n, D) about the origin; axes without any spread are left out."""
        n, dim = features.shape
        wide = n < dim
        values, vectors = np.linalg.eigh(features @ features.T if wide else features.T @ features)
        kept = values > _FLAT * max(float(values[-1]), np.finfo(np.float64).tiny)
        values, vectors = values[kept], vectors[:, kept]
        if wide:
            length = np.sqrt(values)
            return cls(vectors * length, features.T @ (vectors / length), values / n)
        return cls(features @ vectors, vectors, values / n)


def walk(
    features: Floats, loss: ScoreLoss, path: Sequence[float], *, tolerance: float = TOLERANCE
) -> Iterator[Solution]:
    """The minimum at each C of ``path``, in that order; a path from strong to weak regularisation is the quick one.

    :param features: (n, D), standardised.
    :param tolerance: bound on the largest entry of the gradient, per term of the loss (scikit-learn's ``tol``).
    """
    axes = Axes.of(features)
    weights, intercept = np.zeros((len(axes.spread), loss.outputs)), np.zeros(loss.outputs)
    for c in path:
        penalty = 1 / (c * loss.weight)
        problem = _Problem(axes, loss, penalty, weights, intercept)
        weights, intercept, slope, iterations = problem.solve(weights, intercept, tolerance)
        yield Solution(c, axes.directions @ weights, intercept, slope, iterations, slope <= tolerance)


class _Problem:
    """One C, in coordinates scaled by the Hessian's diagonal at the starting point."""

    def __init__(self, axes: Axes, loss: ScoreLoss, penalty: float, weights: Floats, intercept: Floats) -> None:
        self.axes, self.loss, self.penalty = axes, loss, penalty
        curvature = np.maximum(loss.curvature(axes.rows @ weights + intercept), 1e-8)
        self.scale = np.sqrt(np.outer(axes.spread, curvature) + penalty)
        self.intercept_scale = np.sqrt(curvature)

    def solve(self, weights: Floats, intercept: Floats, tolerance: float) -> tuple[Floats, Floats, float, int]:
        start = self._pack(weights * self.scale, intercept * self.intercept_scale)
        iterations, aim = 0, tolerance
        for _ in range(_TIGHTENINGS):
            found = minimize(
                self._value,
                start,
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MAX_ITERATIONS - iterations, "gtol": aim, "ftol": 0.0, "maxls": 50},
            )
            start, iterations = found.x, iterations + found.nit
            weights, intercept = self._unpack(start)
            slope = self._slope(weights, intercept)
            if slope <= tolerance or iterations >= MAX_ITERATIONS:
                break
            aim /= 10
        return weights, intercept, slope, iterations

    def _value(self, point: Floats) -> tuple[float, Floats]:
        weights, intercept = self._unpack(point)
        value, to_weights, to_intercept = self._gradient(weights, intercept)
        return value, self._pack(to_weights / self.scale, to_intercept / self.intercept_scale)

    def _gradient(self, weights: Floats, intercept: Floats) -> tuple[float, Floats, Floats]:
        value, to_scores = self.loss.value(self.axes.rows @ weights + intercept)
        value += self.penalty / 2 * float((weights**2).sum())
        return value, self.axes.rows.T @ to_scores + self.penalty * weights, to_scores.sum(0)

    def _slope(self, weights: Floats, intercept: Floats) -> float:
        _, to_weights, to_intercept = self._gradient(weights, intercept)
        return float(max(np.abs(self.axes.directions @ to_weights).max(initial=0.0), np.abs(to_intercept).max()))

    def _pack(self, weights: Floats, intercept: Floats) -> Floats:
        return np.concatenate([weights.ravel(), intercept])

    def _unpack(self, point: Floats) -> tuple[Floats, Floats]:
        weights = point[: self.scale.size].reshape(self.scale.shape)
        return weights / self.scale, point[self.scale.size :] / self.intercept_scale
