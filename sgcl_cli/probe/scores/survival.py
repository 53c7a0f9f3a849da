"""Survival analysis: Harrell's C, the Kaplan-Meier curve with Greenwood's interval, and the log-rank test.

Shapes: n rows, G patients of a fold, R resamples. ``event`` is 1 for an event and 0 for censored at ``time``; a higher
``risk`` means earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from sgcl_cli.probe.scores.reported import MOST_UNDEFINED, Score, rows_per_patient, too_few
from sgcl_cli.probe.scores.resampling import strata

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
METRICS = ("c_index",)
_BLOCK = 1024


@dataclass(frozen=True)
class Risks:
    """Out-of-fold log risks (n,) with time, event, fold and patient (n,).

    Risks of different folds have no common zero, so a pooled C-index is not meaningful; the mean over folds is the headline.
    """

    metrics: ClassVar[tuple[str, ...]] = METRICS
    most_undefined: ClassVar[float] = MOST_UNDEFINED

    time: Floats
    event: Labels
    risk: Floats
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]

    def score(self, metric: str, rows: NDArray[np.bool_]) -> Score:
        """Harrell's C of some of the rows."""
        return c_index(self.time[rows], self.event[rows], self.risk[rows])

    def why_no_interval(self, metric: str) -> str:
        """Why there are too few patients with an event, "" if enough."""
        return too_few({1: "event"}, self.event, self.fold, self.patient, "outcome")

    def witnesses(self, metric: str) -> int:
        """Half of the patients with an event, per fold: in pairs of two they are comparable."""
        happened = self.event == 1
        return sum(len(np.unique(self.patient[happened & (self.fold == name)])) // 2 for name in np.unique(self.fold))

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """No such component."""
        return ()

    def resampler(self, rows: NDArray[np.bool_]) -> ResampledRisks:
        """One fold, prepared for scoring under weights of the patients."""
        patient, counts = rows_per_patient(self.patient[rows], self.event[rows], 2)
        concordant, comparable = _pairs_of_patients(
            self.time[rows], self.event[rows], self.risk[rows], patient, len(counts)
        )
        return ResampledRisks(strata(counts), concordant, comparable)


@dataclass(frozen=True)
class ResampledRisks:
    """Numbers of concordant and of comparable pairs between patients of one fold, (G, G) each."""

    stratum: Labels
    concordant: Floats
    comparable: Floats

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """C = w^T A w / w^T B w under weights of the patients (R, G): (R,), NaN without a comparable pair."""
        concordant = ((weights @ self.concordant) * weights).sum(1)
        comparable = ((weights @ self.comparable) * weights).sum(1)
        return {"c_index": concordant / np.where(comparable > 0, comparable, np.nan)}


def c_index(time: Floats, event: Labels, risk: Floats) -> Score:
    """Harrell's C (Harrell et al. 1982): the share of comparable pairs in which the earlier event has the higher risk.

    A pair is comparable if the earlier time is an event; at equal times, if exactly one of the two is. Equal risks
    count one half.
    """
    concordant, comparable = _pairs_of_patients(time, event, risk, np.zeros(len(time), dtype=np.int64), 1)
    if comparable.sum() == 0:
        return Score(None, "no two rows whose order of events is known")
    return Score(float(concordant.sum() / comparable.sum()))


def _pairs_of_patients(
    time: Floats, event: Labels, risk: Floats, patient: Labels, patients: int
) -> tuple[Floats, Floats]:
    """Concordant (ties one half) and comparable pairs; entry (p, q): the earlier event is in a row of p, the other row in q."""
    concordant, comparable = np.zeros((patients, patients)), np.zeros((patients, patients))
    member = np.zeros((len(time), patients))
    member[np.arange(len(time)), patient] = 1
    first = np.flatnonzero(event == 1)
    for start in range(0, len(first), _BLOCK):
        i = first[start : start + _BLOCK]
        later = (time[i][:, None] < time) | ((time[i][:, None] == time) & (event == 0))
        agreement = (risk[i][:, None] > risk) + 0.5 * (risk[i][:, None] == risk)
        concordant += member[i].T @ (later * agreement) @ member
        comparable += member[i].T @ later.astype(np.float64) @ member
    return concordant, comparable


@dataclass(frozen=True)
class KaplanMeier:
    """A survival curve at its distinct event times (T,): constant from each time to the next, and 1 before the first.

    ``at_risk`` and ``events`` count rows; ``error`` is Greenwood's standard error of ``survival``.
    """

    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    error: Floats
    at_risk: Labels
    events: Labels


def kaplan_meier(time: Floats, event: Labels, *, confidence: float = 0.95) -> KaplanMeier:
    """S(t) = product over event times u <= t of (1 - d_u / n_u)  (Kaplan, Meier 1958).

    var S = S^2 sum_u d_u / (n_u (n_u - d_u)) (Greenwood 1926). The interval is computed for log(-log S), so it stays
    within 0 and 1 (Kalbfleisch, Prentice 1980); it is NaN where S is 0. Rows censored at t are at risk at t.
    """
    times = np.unique(time[event == 1])
    at_risk = (time[None] >= times[:, None]).sum(1)
    events = ((time[None] == times[:, None]) & (event == 1)).sum(1)
    survival = np.cumprod(1 - events / at_risk)
    left = at_risk - events
    terms = np.where(left > 0, events / (at_risk * np.maximum(left, 1)), np.nan)
    variance = np.cumsum(terms)
    alive = left > 0
    log_survival = np.log(np.where(alive, survival, 0.5))
    width = norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / log_survival
    low, high = survival ** np.exp(-width), survival ** np.exp(width)
    error = np.where(alive, survival * np.sqrt(np.where(alive, variance, 0)), 0.0)
    return KaplanMeier(times, survival, low, high, error, at_risk, events)


def log_rank(time: Floats, event: Labels, group: NDArray[np.bool_]) -> float | None:
    """p of the log-rank test (Mantel 1966) of two groups; None if the variance is 0.

    chi^2 = (O - E)^2 / V over distinct event times with the hypergeometric variance, one degree of freedom.
    """
    times = np.unique(time[event == 1])
    at_risk = time[None] >= times[:, None]
    died = (time[None] == times[:, None]) & (event == 1)
    n, d = at_risk.sum(1), died.sum(1)
    n_group, d_group = (at_risk & group).sum(1), (died & group).sum(1)
    variance = (d * n_group * (n - n_group) * (n - d) / (n**2 * np.maximum(n - 1, 1))).sum()
    if variance == 0:
        return None
    return float(chi2.sf((d_group - d * n_group / n).sum() ** 2 / variance, 1))


def above_median(risk: Floats, fold: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether the risk of a row is above the median of its fold, (n,); risks of different folds have no common zero."""
    high = np.zeros(len(risk), dtype=bool)
    for name in np.unique(fold):
        mine = fold == name
        high[mine] = risk[mine] > np.median(risk[mine])
    return high
