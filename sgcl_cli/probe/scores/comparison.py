"""Comparison of models, paired by patient, on the same rows in the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import LabelError
from sgcl_cli.probe.scores import intervals
from sgcl_cli.probe.scores.reported import Reported, fold_names, mean_of_scores, why_no_interval
from sgcl_cli.probe.scores.resampling import Resampled, resample


@dataclass(frozen=True)
class ComparedResult:
    """A result to compare: its name, the names of its rows (n,) in the order of ``reported``, and their truth (n, ...)."""

    name: str
    rows: NDArray[np.str_]
    truth: NDArray[np.generic]
    reported: Reported


@dataclass(frozen=True)
class Difference:
    """``first`` minus ``second`` in the headline of a metric.

    :ivar value: None if one of the headlines is undefined.
    :ivar low, high: the interval, None if there is none.
    :ivar p: two-sided p value, None without an interval.
    :ivar adjusted: p after Holm's correction over all pairs of the comparison.
    :ivar reason: why there is no interval.
    """

    first: str
    second: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None
    reason: str = ""


def compare(
    entries: Sequence[ComparedResult], metric: str, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Difference]:
    """The difference of every pair of entries, with interval and Holm-adjusted p value (Holm 1979).

    Both headlines are recomputed on the same resampled patients, so variation common to both models cancels out of the
    standard error of their difference; interval and p are based on Student's t (``intervals.difference``).

    :raises LabelError: the entries differ in rows, truth, patients or folds.
    """
    for entry in entries[1:]:
        _same_rows(entries[0], entry)
    sampled: list[Resampled | None] = []
    values, reasons = [], []
    for entry in entries:
        reported = entry.reported
        value, reason = mean_of_scores(
            {name: reported.score(metric, reported.fold == name) for name in fold_names(reported)}
        )
        reason = reason or why_no_interval(reported, metric, resamples)
        values.append(value)
        reasons.append(reason)
        sampled.append(None if reason else resample(reported, resamples, seed)[metric])
    found = []
    for i, j in combinations(range(len(entries)), 2):
        names, (one, other) = (entries[i].name, entries[j].name), (values[i], values[j])
        value = None if one is None or other is None else one - other
        first, second = sampled[i], sampled[j]
        if value is None or first is None or second is None:
            found.append(Difference(*names, metric, value, None, None, None, None, reasons[i] or reasons[j]))
            continue
        if not first.pairs_with(second):
            reason = "they are not defined in the same folds"
            found.append(Difference(*names, metric, value, None, None, None, None, reason))
            continue
        tested = intervals.difference(first - second, confidence)
        low, high, reason = tested.interval.low, tested.interval.high, tested.interval.reason
        found.append(Difference(*names, metric, value, low, high, tested.p, None, reason))
    adjusted = iter(holm([one.p for one in found if one.p is not None]))
    return [one if one.p is None else Difference(**{**vars(one), "adjusted": next(adjusted)}) for one in found]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values (Holm 1979): the i-th smallest of m times m - i + 1, made monotone, at most 1."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _same_rows(one: ComparedResult, other: ComparedResult) -> None:
    hint = "evaluate both with the same labels and --splits FILE"
    pair = f"'{one.name}' and '{other.name}'"
    if len(one.rows) != len(other.rows) or (one.rows != other.rows).any():
        apart = np.setxor1d(one.rows, other.rows)
        what = f", first '{apart[0]}'" if len(apart) else " in the same order"
        raise LabelError(f"{pair} do not report the same rows{what}", hint)
    for what, a, b in (
        ("labels", one.truth, other.truth),
        ("patients", one.reported.patient, other.reported.patient),
        ("folds", one.reported.fold, other.reported.fold),
    ):
        if a.shape != b.shape or (a != b).any():
            differs = np.flatnonzero((a != b).reshape(len(a), -1).any(1)) if a.shape == b.shape else [0]
            raise LabelError(f"{pair} have different {what}, first at '{one.rows[differs[0]]}'", hint)
