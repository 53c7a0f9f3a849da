"""Headlines with confidence intervals, and their spread over folds and seeds.

A headline is the mean of a metric over folds. Its interval resamples patients within each fold, stratified, recomputes
the metric in each fold and averages (``resampling``, ``intervals``); it is conditional on the fitted models. Implementations of
``Reported`` are in metrics, thresholds, calibration, survival and measurements.
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
    """The mean of a metric over folds, with its interval.

    :ivar reason: why ``value`` is None.
    :ivar low, high: the interval, None if there is none.
    :ivar no_interval: why there is none.
    :ivar folds: the score of each fold.
    :ivar pooled: the score of the rows of all folds together.
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
    """Standard deviations (n - 1) of a metric over folds and over training seeds; None below two.

    :ivar folds: of the scores of the folds, after averaging over seeds.
    :ivar seeds: of the mean over folds of each seed.
    """

    folds: float | None
    seeds: float | None


def headlines(
    reported: Reported, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Headline]:
    """The headline of every metric: mean over the folds where it is defined, interval, scores per fold and pooled.

    There is no interval below 10 patients, if the design allows none (``Reported.why_no_interval``), or if the metric is
    undefined without one of the patients.
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
    """The interval of the headline of one metric, or of the mean of several headlines over the same rows."""
    return intervals.interval(
        found,
        confidence,
        scale=intervals.scale_of(metric),
        witnesses=reported.witnesses(metric),
        unseen=reported.unseen(metric),
        most_undefined=reported.most_undefined,
    )


def spread(headline: Headline, of_seeds: Sequence[Headline]) -> Spread:
    """Spread over the folds of the headline of averaged seeds, and over the headlines of single seeds."""
    folds = [score.value for score in headline.folds.values() if score.value is not None]
    seeds = [one.value for one in of_seeds if one.value is not None]
    deviations = [float(np.std(values, ddof=1)) if len(values) > 1 else None for values in (folds, seeds)]
    return Spread(*deviations)
