"""Label-efficiency curves: models fitted on nested shares of the patients of each fold, with repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.probe.scores import efficiency, reported, resampling, uncertainty
from sgcl_cli.probe.scores.intervals import Interval
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.inputs import strata_of
from sgcl_cli.stages.evaluate.models import FoldFit, Model
from sgcl_cli.stages.evaluate.scores import HEADLINES, Scorer, placed

Key = tuple[float, int]


@dataclass(frozen=True)
class CurvePoints:
    """Folds reduced to shares of their fitted patients.

    :ivar folds: by (share, repeat), in the order of the plan.
    :ivar left_out: the shares that are left out, with reasons.
    """

    folds: Mapping[Key, Sequence[Fold]]
    left_out: Sequence[str]


def curves(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, models: Sequence[Model], fits: Fits, *, reporter: Reporter
) -> dict[str, Any]:
    """Label-efficiency curves as JSON values.

    A repeat of a share counts if it has patients of each class in every fold.

    :returns: ``metric``; ``names`` of the models by key; ``curves`` by key and share, the mean over folds of each repeat;
        ``intervals`` by key and share, low and high of the mean over repeats, or the reason why there is none; ``left_out``.
    """
    shares = tuple(sorted({share for model in models for share in model.shares}))
    points = points_of(config, cohort, plan, shares)
    wanted = [(share, model) for share, _ in sorted(points.folds) for model in models if share in model.shares]
    curve = _Curve(config, Scorer(config, cohort, plan), HEADLINES[cohort.task])
    found: dict[str, dict[str, list[float]]] = {model.key: {} for model in models if model.shares}
    intervals: dict[str, dict[str, Any]] = {key: {} for key in found}
    with reporter.task("label efficiency", len(wanted), "fit") as bar:
        for share in sorted({share for share, _ in points.folds}):
            for model in (model for model in models if share in model.shares):
                repeats = []
                for (of, _), folds in sorted(points.folds.items()):
                    if of == share:
                        repeats.append(
                            [fits.of(model, fold) if model.parts or of >= 1 else model.fit(fold) for fold in folds]
                        )
                        bar.advance()
                values, interval = curve.point(repeats)
                if values:
                    found[model.key][f"{share:g}"] = values
                    intervals[model.key][f"{share:g}"] = interval
    names = {model.key: model.name for model in models if model.shares}
    return {
        "metric": curve.metric,
        "names": names,
        "curves": found,
        "intervals": intervals,
        "left_out": list(points.left_out),
    }


def points_of(config: EvaluateConfig, cohort: Cohort, plan: Plan, shares: Sequence[float]) -> CurvePoints:
    """The folds of a plan, reduced to shares of their fitted patients."""
    strata, names = strata_of(cohort, len(plan.folds))
    points: dict[Key, list[Any]] = {}
    missing: dict[float, str] = {}
    for fold in plan.folds:
        for point in efficiency.points(
            fold,
            cohort.slide_id,
            strata,
            cohort.patient_id,
            classes=names,
            shares=shares,
            validation=config.validation,
            seed=config.seed,
        ):
            points.setdefault((point.share, point.repeat), []).append(point.fold)
            if point.fold is None:
                missing.setdefault(point.share, f"fold {fold.name}: {point.reason}")
    whole = {key: folds for key, folds in points.items() if all(fold is not None for fold in folds)}
    return CurvePoints(
        whole,
        [
            f"{100 * share:g} % of the patients is left out: {reason}"
            for share, reason in missing.items()
            if not any(key[0] == share for key in whole)
        ],
    )


def tidy(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of metrics.csv, one for each model and share: the mean over repeats with its interval."""
    for key, curve in found.get("curves", {}).items():
        for share, values in curve.items():
            interval = found["intervals"][key][share]
            yield {
                "model": key,
                "metric": found["metric"],
                "scope": f"{100 * float(share):g} % of the patients",
                "value": float(np.mean(values)),
                "low": interval["low"],
                "high": interval["high"],
            }


@dataclass(frozen=True)
class _Curve:
    config: EvaluateConfig
    scorer: Scorer
    metric: str

    def point(self, repeats: Sequence[Sequence[FoldFit]]) -> tuple[list[float], dict[str, Any]]:
        """The mean over folds of each repeat, and the interval of their mean; all repeats use the same resampled patients."""
        values: list[float] = []
        sampled, refusal, rows = [], "", None
        for of_folds in repeats:
            rows = self.scorer.reported(placed(self.scorer.plan, [fit.test.mean(0) for fit in of_folds]))
            scores = {fold.name: rows.score(self.metric, rows.fold == fold.name) for fold in self.scorer.plan.folds}
            value, _ = reported.mean_of_scores(scores)
            if value is None:
                continue
            values.append(value)
            refusal = reported.why_no_interval(rows, self.metric, self.config.bootstrap)
            if not refusal:
                sampled.append(resampling.resample(rows, self.config.bootstrap, self.config.seed)[self.metric])
        found = Interval(None, None, refusal)
        if sampled and rows is not None:
            found = uncertainty.interval_of(rows, self.metric, resampling.average(sampled), self.config.confidence)
        return values, {"low": found.low, "high": found.high, "no_interval": found.reason}
