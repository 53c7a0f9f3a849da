"""The headline of a metric with its interval, and how far folds and seeds spread.

A headline is the mean of a metric over folds. Its interval resamples patients within each fold, stratified, recomputes
the metric in each fold and averages (``resampling``, ``intervals``); it is conditional on the fitted models. What is
scored is behind ``Reported``: classes (metrics), decisions at a threshold (thresholds), calibration, survival, measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgcl_cli.probe.scores import intervals
from sgcl_cli.probe.scores.intervals import Interval
from sgcl_cli.probe.scores.reported import Reported, Score, fold_names, mean_of_scores, why_no_interval
from sgcl_cli.probe.scores.resampling import Resampled, resample


@dataclass(frozen=True)
class Headline:
    """The mean of a metric over folds, with the interval that belongs to this very number.

    ``low`` and ``high`` are None with ``no_interval`` saying why; ``pooled`` scores all folds' rows together.
    """

    metric: str
    value: float | None
    reason: str
    low: float | None
    high: float | None
    no_interval: str
    folds: dict[str, Score]
    pooled: Score

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "value": self.value,
            "reason": self.reason,
            "low": self.low,
            "high": self.high,
            "no_interval": self.no_interval,
            "folds": {name: {"value": score.value, "reason": score.reason} for name, score in self.folds.items()},
            "pooled": {"value": self.pooled.value, "reason": self.pooled.reason},
        }


@dataclass(frozen=True)
class Spread:
    """How far a metric moves besides chance of patients: standard deviations (n - 1) over folds, and over seeds.

    ``folds``: of the folds' scores, seeds averaged first; ``seeds``: of each seed's mean over folds. None below two.
    """

    folds: float | None
    seeds: float | None


def headlines(
    reported: Reported, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Headline]:
    """Every metric: its mean over the folds where it is defined, per fold, pooled, and with its interval.

    There is no interval below 10 patients, where the design says so itself (``Reported.why_no_interval``), or where the
    metric hangs on a single patient.
    """
    refused = {metric: why_no_interval(reported, metric, resamples) for metric in reported.metrics}
    sampled = {} if all(refused.values()) else resample(reported, resamples, seed)
    everything = np.ones(len(reported.patient), dtype=bool)
    result = {}
    for metric in reported.metrics:
        folds = {name: reported.score(metric, reported.fold == name) for name in fold_names(reported)}
        value, reason = mean_of_scores(folds)
        why = refused[metric] or reason
        found = Interval(None, None, why) if why else interval_of(reported, metric, sampled[metric], confidence)
        pooled = reported.score(metric, everything)
        result[metric] = Headline(metric, value, reason, found.low, found.high, found.reason, folds, pooled)
    return result


def interval_of(reported: Reported, metric: str, found: Resampled, confidence: float) -> Interval:
    """The interval of one metric's headline, or of the mean of several over the same rows."""
    return intervals.interval(
        found,
        confidence,
        scale=intervals.scale_of(metric),
        witnesses=reported.witnesses(metric),
        unseen=reported.unseen(metric),
        most_undefined=reported.most_undefined,
    )


def spread(headline: Headline, of_seeds: Sequence[Headline]) -> Spread:
    """Of the headline of averaged seeds over its folds, and of the seeds' own headlines."""
    folds = [score.value for score in headline.folds.values() if score.value is not None]
    seeds = [one.value for one in of_seeds if one.value is not None]
    deviations = [float(np.std(values, ddof=1)) if len(values) > 1 else None for values in (folds, seeds)]
    return Spread(*deviations)
