"""Cox regression on standardised frozen features with an L2 penalty, with C chosen on validation rows.

``C * negative log partial likelihood + |w|^2 / 2``, with Efron's handling of ties; the score is the log risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.probe.models.cox import cox_loss
from sgcl_cli.probe.models.penalised import Solution, walk
from sgcl_cli.probe.models.standardise import Standardiser

Floats = NDArray[np.float64]
C_PATH: tuple[float, ...] = tuple(10.0**power for power in range(-5, 2))
C_DEFAULT = 1e-2
REFIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CoxProbe:
    """A fitted model: log risk (N,) from features (N, D).

    :ivar path: validation loss of each C; empty if validation has no event.
    """

    standardise: Standardiser
    solution: Solution
    path: dict[float, float]
    converged: bool

    @property
    def c(self) -> float:
        """The C chosen."""
        return self.solution.c

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        return self.solution(self.standardise(features))[:, 0]


def fit(
    features: NDArray[np.floating],
    time: Floats,
    event: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    path: Sequence[float] = C_PATH,
) -> CoxProbe:
    """Choose C by the partial likelihood of ``validation``, then refit on training and validation rows together.

    :param features: (N, D); time: (N,); event: (N,), 1 for an event and 0 for censored; train, validation: row numbers.
    """
    losses: dict[float, float] = {}
    converged = True
    if (event[validation].astype(bool) & (time[validation] < time[validation].max(initial=-np.inf))).any():
        standardise = Standardiser.fit(features[train])
        outside = standardise(features[validation])
        held_out = PartialLikelihood(time[validation], event[validation])
        for solution in walk(standardise(features[train]), PartialLikelihood(time[train], event[train]), sorted(path)):
            losses[solution.c] = held_out.value(solution(outside))[0]
            converged &= solution.converged
    best = min(losses, key=lambda c: (losses[c], c)) if losses else C_DEFAULT
    fitted = np.sort(np.concatenate([train, validation]))
    standardise = Standardiser.fit(features[fitted])
    loss = PartialLikelihood(time[fitted], event[fitted])
    (solution,) = walk(standardise(features[fitted]), loss, [best], tolerance=REFIT_TOLERANCE)
    return CoxProbe(standardise, solution, losses, converged and solution.converged)


@dataclass(frozen=True)
class PartialLikelihood:
    """Negative log partial likelihood per event; times (n,), events (n,)."""

    time: Floats
    event: NDArray[np.int64]
    outputs: int = 1

    @property
    def weight(self) -> float:
        """Number of events, at least 1."""
        return max(1.0, float(self.event.sum()))

    def value(self, scores: Floats) -> tuple[float, Floats]:
        """The loss and its gradient (n, 1)."""
        risk = torch.tensor(scores[:, 0], dtype=torch.float64, requires_grad=True)
        loss = cox_loss(risk, torch.from_numpy(self.time), torch.from_numpy(self.event))
        (gradient,) = torch.autograd.grad(loss, risk)
        return float(loss.detach()), gradient.numpy()[:, None]

    def curvature(self, scores: Floats) -> Floats:
        """1, since the Hessian is a mean of covariances within risk sets, at equal risks about the covariance of all rows."""
        return np.ones(1)
