"""Linear models with an L2 penalty along a path of C, with warm starts.

C L(X w + b) + |w|^2 / 2 is minimised by L-BFGS (scipy), where L is a sum over rows, as in scikit-learn. The problem is
preconditioned: weights are scaled by the square root of the Hessian, along each leading principal axis of X and by one
factor across the other axes. This changes the number of iterations, not the solution.

Shapes: n rows, D features, r leading axes, k scores a row.
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
_TIGHTENINGS = 3
_AXES = 128
_ROWS = 4096


class ScoreLoss(Protocol):
    """A mean loss of scores (n, k) over ``weight`` terms, with its gradient and the mean diagonal of its Hessian (k,)."""

    @property
    def outputs(self) -> int: ...

    @property
    def weight(self) -> float: ...

    def value(self, scores: Floats) -> tuple[float, Floats]: ...

    def curvature(self, scores: Floats) -> Floats: ...


@dataclass(frozen=True)
class Solution:
    """The minimum at one C.

    :ivar coefficients: (D, k).
    :ivar intercept: (k,).
    :ivar slope: the largest absolute entry of the gradient of the mean loss plus penalty.
    :ivar converged: whether ``slope`` is within the tolerance.
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
class LeadingAxes:
    """Leading principal axes of rows (n, D) about the origin.

    :ivar directions: V (D, r), orthonormal columns.
    :ivar spread: (r,), |X v|^2 / n along each axis v.
    :ivar rest: mean of |X v|^2 / n over the other axes.
    """

    directions: Floats
    spread: Floats
    rest: float

    @classmethod
    def of(cls, features: Floats) -> LeadingAxes:
        """At most 128 axes, by one round of subspace iteration from a fixed random start (Halko et al. 2011).

        At most 4,096 evenly spaced rows are used: the accuracy of the axes affects the number of iterations, not the solution.
        """
        some = features[:: -(-len(features) // _ROWS)]
        rank = min(some.shape)
        start = np.random.default_rng(0).normal(size=(features.shape[1], min(_AXES, rank)))
        basis, _ = np.linalg.qr(some.T @ (some @ start))
        turned = some @ basis
        values, vectors = np.linalg.eigh(turned.T @ turned)
        values = np.maximum(values, 0.0) / len(some)
        left = np.einsum("nd,nd->", some, some) / len(some) - values.sum()
        return cls(basis @ vectors, values, max(float(left), 0.0) / max(rank - len(values), 1))


def walk(
    features: Floats, loss: ScoreLoss, path: Sequence[float], *, tolerance: float = TOLERANCE
) -> Iterator[Solution]:
    """The minimum at each C of ``path``, in that order; a path from strong to weak regularisation is fastest.

    :param features: (n, D), standardised.
    :param tolerance: bound on the largest entry of the gradient, per term of the loss (scikit-learn's ``tol``).
    """
    axes = LeadingAxes.of(features)
    weights, intercept = np.zeros((features.shape[1], loss.outputs)), np.zeros(loss.outputs)
    for c in path:
        penalty = 1 / (c * loss.weight)
        problem = _Problem(features, axes, loss, penalty=penalty, weights=weights, intercept=intercept)
        solution = problem.solve(c, weights, intercept, tolerance=tolerance)
        weights, intercept = solution.coefficients, solution.intercept
        yield solution


class _Problem:
    """The problem at one C, preconditioned by the square root of the Hessian at the starting point."""

    def __init__(
        self,
        features: Floats,
        axes: LeadingAxes,
        loss: ScoreLoss,
        *,
        penalty: float,
        weights: Floats,
        intercept: Floats,
    ) -> None:
        self.features, self.loss, self.penalty = features, loss, penalty
        curvature = np.maximum(loss.curvature(features @ weights + intercept), 1e-8)
        self.directions = axes.directions
        along = np.sqrt(np.outer(axes.spread, curvature) + penalty)
        across = np.sqrt(axes.rest * curvature + penalty)
        self.stretch, self.shrink = (along - across, across), (1 / along - 1 / across, 1 / across)
        self.intercept_scale = np.sqrt(curvature)

    def solve(self, c: float, weights: Floats, intercept: Floats, *, tolerance: float) -> Solution:
        """Minimise from the given starting point; the solver's own tolerance is tightened up to twice where it stops early."""
        stretched = self._scaled(weights, *self.stretch)
        start = self._pack(stretched, intercept * self.intercept_scale)
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
        return Solution(c, weights, intercept, slope, iterations, slope <= tolerance)

    def _value(self, point: Floats) -> tuple[float, Floats]:
        weights, intercept = self._unpack(point)
        value, to_weights, to_intercept = self._gradient(weights, intercept)
        to_point = self._scaled(to_weights, *self.shrink)
        return value, self._pack(to_point, to_intercept / self.intercept_scale)

    def _gradient(self, weights: Floats, intercept: Floats) -> tuple[float, Floats, Floats]:
        value, to_scores = self.loss.value(self.features @ weights + intercept)
        value += self.penalty / 2 * float((weights**2).sum())
        return value, self.features.T @ to_scores + self.penalty * weights, to_scores.sum(0)

    def _slope(self, weights: Floats, intercept: Floats) -> float:
        _, to_weights, to_intercept = self._gradient(weights, intercept)
        return float(max(np.abs(to_weights).max(initial=0.0), np.abs(to_intercept).max()))

    def _scaled(self, values: Floats, more: Floats, across: Floats) -> Floats:
        """Values (D, k) times ``across`` (k,), plus their components along each axis times ``more`` (r, k)."""
        scaled: Floats = values * across + self.directions @ (more * (self.directions.T @ values))
        return scaled

    def _pack(self, weights: Floats, intercept: Floats) -> Floats:
        return np.concatenate([weights.ravel(), intercept])

    def _unpack(self, point: Floats) -> tuple[Floats, Floats]:
        """Weights and intercept at a point."""
        stretched = point[: -len(self.intercept_scale)].reshape(-1, len(self.intercept_scale))
        weights = self._scaled(stretched, *self.shrink)
        return weights, point[-len(self.intercept_scale) :] / self.intercept_scale
