"""Scores of a model's predictions of the reported rows, over folds and seeds, with intervals."""

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
    """Scores of decisions at the thresholds that a rule chooses on the validation rows of each fold.

    :ivar name: of the rule.
    :ivar values: the threshold of each fold; None where the validation rows determine none.
    :ivar rests_on: the numbers of positive and negative validation rows of each fold.
    :ivar headlines: scores by metric.
    """

    name: str
    values: dict[str, float | None]
    rests_on: dict[str, tuple[int, int]]
    headlines: dict[str, Headline]


@dataclass
class Scored:
    """One row of the table of scores.

    :ivar key: name of the model in files.
    :ivar name: its title in reports.
    :ivar prediction: (m, K), of the reported rows, in the order of ``reported_rows``.
    :ivar folds: details of the fit of each fold, as JSON values.
    :ivar headlines: scores by metric, with intervals.
    :ivar spread: standard deviations over folds and over seeds, by metric.
    :ivar calibration: calibration errors by metric; empty where there are no classes.
    :ivar rules: decisions at thresholds; empty unless there are two classes.
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
    """Scores the models of a cohort and its division."""

    config: EvaluateConfig
    cohort: Cohort
    plan: Plan

    def score(self, model: Model, fits: Sequence[FoldFit]) -> Scored:
        """Scores of a model from its fits, in the order of the folds; the predictions of the seeds are averaged first."""
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
        """Predictions (m, K) of the reported rows, with their truth."""
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
        """Decisions at Youden's threshold and at that of a sensitivity of 0.95, both chosen on the validation rows."""
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
        """Each fold and the number of its positive validation rows."""
        return [(fold, int((self.cohort.label[fold.validation] == 1).sum())) for fold in self.plan.folds]


def _error_of(calibrated: calibration.Calibrated) -> Headline:
    """The calibration error of all reported rows together: the bins of a single fold hold too few rows."""
    found = calibration.calibration_error(calibrated.truth, calibrated.probability, calibrated.patient)
    return Headline(
        "ece", found.value, found.reason, None, None, "its bias is subtracted, so it is cut off at 0", {}, found
    )


def reported_rows(cohort: Cohort, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Rows (m,) of the test parts of all folds, ascending, and the fold of each; a row that several folds test is repeated."""
    rows = np.concatenate([fold.test for fold in plan.folds])
    names = np.concatenate([np.full(len(fold.test), fold.name) for fold in plan.folds])
    order = np.argsort(rows, kind="stable")
    return rows[order], names[order]


def placed(plan: Plan, of_folds: Sequence[Floats]) -> Floats:
    """Predictions of the test parts, (n_f, K) for each fold, in the order of ``reported_rows``: (m, K)."""
    return np.concatenate(of_folds)[np.argsort(np.concatenate([fold.test for fold in plan.folds]), kind="stable")]


def log_rank_p(cohort: Cohort, plan: Plan, prediction: Floats) -> float | None:
    """p of the log-rank test between the rows above the median risk of their fold and the others."""
    rows, fold_of = reported_rows(cohort, plan)
    if cohort.time is None or cohort.event is None:
        return None
    return survival.log_rank(cohort.time[rows], cohort.event[rows], survival.above_median(prediction[:, 0], fold_of))


def spread_dict(spread: Mapping[str, Spread], metric: str) -> dict[str, float | None]:
    """One metric's spread as JSON values."""
    return {"folds": spread[metric].folds, "seeds": spread[metric].seeds}
