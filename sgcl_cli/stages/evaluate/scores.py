"""Scores of ``sgcl evaluate``: what a model says of reported rows, over folds and seeds, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.evaluations import BASELINE
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.probe.scores import calibration, measurements, metrics, survival, thresholds, uncertainty
from sgcl_cli.probe.scores.reported import Reported
from sgcl_cli.probe.scores.uncertainty import Headline, Spread
from sgcl_cli.stages.evaluate.models import FoldFit, Model

HEADLINES = {"binary": "auroc", "multiclass": "auroc", "regression": "spearman", "survival": "c_index"}
SENSITIVITY = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """Decisions at thresholds that a rule took from each fold's validation rows; None where they say nothing.

    :ivar rests_on: of each fold the validation rows that the rule saw: (positive, negative).
    """

    name: str
    values: dict[str, float | None]
    rests_on: dict[str, tuple[int, int]]
    headlines: dict[str, Headline]


@dataclass
class Scored:
    """One row of the table: predictions (m, K) of what is reported, in the order of ``reported_rows``, and all their scores.

    ``folds`` holds what each fit says of itself, by fold.
    """

    key: str
    name: str
    prediction: Floats
    folds: dict[str, dict[str, Any]]
    headlines: dict[str, Headline]
    spread: dict[str, Spread]
    calibration: dict[str, Headline] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)


@dataclass(frozen=True)
class Scorer:
    """Scores models of one cohort and plan."""

    config: EvaluateConfig
    cohort: Cohort
    plan: Plan

    def score(self, model: Model, fits: Sequence[FoldFit]) -> Scored:
        """From the model's fits, in the order of the folds; seeds are averaged as predictions first."""
        seeds = [placed(self.plan, [fit.test[seed] for fit in fits]) for seed in range(len(fits[0].test))]
        prediction = np.mean(seeds, axis=0)
        found = self._headlines(self.reported(prediction))
        of_seeds = [uncertainty.headlines(self.reported(one), resamples=0) for one in seeds]
        scored = Scored(
            model.key,
            model.name,
            prediction,
            {fold.name: fit.details for fold, fit in zip(self.plan.folds, fits, strict=True)},
            found,
            {name: uncertainty.spread(found[name], [one[name] for one in of_seeds]) for name in found},
        )
        if self.cohort.classes and model.key != BASELINE:
            calibrated = self._calibrated(prediction)
            scored.calibration = {"ece": _error_of(calibrated), **self._headlines(calibrated)}
            if self.cohort.binary:
                scored.rules = self._rules(prediction, [fit.validation.mean(0) for fit in fits])
        return scored

    def reported(self, prediction: Floats) -> Reported:
        """Predictions (m, K) of what is reported, with their truth."""
        rows, fold_of = reported_rows(self.cohort, self.plan)
        cohort, patient = self.cohort, self.cohort.patient_id[rows]
        if cohort.value is not None:
            return measurements.Values(cohort.value[rows], prediction[:, 0], fold_of, patient)
        if cohort.event is not None and cohort.time is not None:
            return survival.Risks(cohort.time[rows], cohort.event[rows], prediction[:, 0], fold_of, patient)
        return metrics.Predictions(cohort.label[rows], prediction, fold_of, patient, cohort.classes)

    def _headlines(self, reported: Reported) -> dict[str, Headline]:
        return uncertainty.headlines(
            reported, resamples=self.config.bootstrap, confidence=self.config.confidence, seed=self.config.seed
        )

    def _calibrated(self, prediction: Floats) -> calibration.Calibrated:
        rows, fold_of = reported_rows(self.cohort, self.plan)
        label, patient = self.cohort.label[rows], self.cohort.patient_id[rows]
        return calibration.Calibrated(label, prediction, fold_of, patient, self.cohort.classes)

    def _rules(self, prediction: Floats, validation: Sequence[Floats]) -> list[Rule]:
        """Youden's threshold, and that of a sensitivity of 0.95, both of validation rows."""
        rows, fold_of = reported_rows(self.cohort, self.plan)
        truth, patient = self.cohort.label[rows] == 1, self.cohort.patient_id[rows]
        rests_on = {fold.name: (many, len(fold.validation) - many) for fold, many in self._positives()}
        rules = []
        for name, choose in (("Youden", thresholds.youden), (f"sensitivity {SENSITIVITY:g}", thresholds.sensitive)):
            values = {
                fold.name: choose(self.cohort.label[fold.validation] == 1, chosen[:, 1]) if len(chosen) else None
                for fold, chosen in zip(self.plan.folds, validation, strict=True)
            }
            if any(value is not None for value in values.values()):
                made = thresholds.Decisions.at(values, truth, prediction[:, 1], fold_of, patient)
                rules.append(Rule(name, values, rests_on, self._headlines(made)))
        return rules

    def _positives(self) -> list[tuple[Fold, int]]:
        """Folds with how many of their validation rows are positive."""
        return [(fold, int((self.cohort.label[fold.validation] == 1).sum())) for fold in self.plan.folds]


def _error_of(calibrated: calibration.Calibrated) -> Headline:
    """The calibration error of all reported rows: bins of a fold alone hold too few."""
    found = calibration.calibration_error(calibrated.truth, calibrated.probability, calibrated.patient)
    return Headline(
        "ece", found.value, found.reason, None, None, "chance is taken off, so it is cut off at 0", {}, found
    )


def reported_rows(cohort: Cohort, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Rows (m,) of the folds' test parts, ascending, and the name of the fold; a row that several report is there for each."""
    rows = np.concatenate([fold.test for fold in plan.folds])
    names = np.concatenate([np.full(len(fold.test), fold.name) for fold in plan.folds])
    order = np.argsort(rows, kind="stable")
    return rows[order], names[order]


def placed(plan: Plan, of_folds: Sequence[Floats]) -> Floats:
    """What each fold says of its test part, (n_f, K) a fold, in the order of ``reported_rows``, (m, K)."""
    return np.concatenate(of_folds)[np.argsort(np.concatenate([fold.test for fold in plan.folds]), kind="stable")]


def log_rank_p(cohort: Cohort, plan: Plan, prediction: Floats) -> float | None:
    """p of the log-rank test of rows above their fold's median risk against the others."""
    rows, fold_of = reported_rows(cohort, plan)
    if cohort.time is None or cohort.event is None:
        return None
    return survival.log_rank(cohort.time[rows], cohort.event[rows], survival.above_median(prediction[:, 0], fold_of))


def spread_dict(spread: Mapping[str, Spread], metric: str) -> dict[str, float | None]:
    """One metric's spread as JSON values."""
    return {"folds": spread[metric].folds, "seeds": spread[metric].seeds}
