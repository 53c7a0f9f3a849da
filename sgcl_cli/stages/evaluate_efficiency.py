"""Label-efficiency curves of ``sgcl evaluate``: cheap models on nested shares of each fold's patients, repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe import efficiency
from sgcl_cli.probe.cohort import Cohort
from sgcl_cli.probe.splits import Plan
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.evaluate_fit import FoldFit, Model
from sgcl_cli.stages.evaluate_inputs import strata_of
from sgcl_cli.stages.evaluate_score import HEADLINES, Scorer

Key = tuple[float, int]


def curves(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, models: Sequence[Model], reporter: Reporter
) -> dict[str, Any]:
    """JSON values: ``metric``, ``curves`` (key, share: the mean over folds of each repeat), ``left_out`` (reasons).

    A repeat of a share counts where every fold has patients of each class in it.
    """
    cheap = [model for model in models if model.cheap]
    points, left_out = _points(config, cohort, plan)
    metric, scorer = HEADLINES[cohort.task], Scorer(config, cohort, plan)
    found: dict[str, dict[str, list[float]]] = {model.key: {} for model in cheap}
    with reporter.task("label efficiency", len(points) * len(cheap), "fit") as bar:
        for (share, _), of_folds in sorted(points.items()):
            for model in cheap:
                score = _score(scorer, metric, [model.fit(point) for point in of_folds])
                if score is not None:
                    found[model.key].setdefault(f"{share:g}", []).append(score)
                bar.advance()
    return {"metric": metric, "curves": found, "left_out": left_out}


def _points(config: EvaluateConfig, cohort: Cohort, plan: Plan) -> tuple[dict[Key, list[Any]], list[str]]:
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
            validation=config.validation,
            seed=config.seed,
        ):
            points.setdefault((point.share, point.repeat), []).append(point.fold)
            if point.fold is None:
                missing.setdefault(point.share, f"fold {fold.name}: {point.reason}")
    whole = {key: folds for key, folds in points.items() if all(fold is not None for fold in folds)}
    return whole, [f"{100 * share:g} % of the patients is left out: {reason}" for share, reason in missing.items()
                   if not any(key[0] == share for key in whole)]  # fmt: skip


def _score(scorer: Scorer, metric: str, fits: Sequence[FoldFit]) -> float | None:
    placed: NDArray[np.float64] = np.full((len(scorer.cohort), fits[0].test.shape[2]), np.nan)
    for fold, fit in zip(scorer.plan.folds, fits, strict=True):
        placed[fold.test] = fit.test[0]
    reported = scorer.reported(placed)
    scores = [reported.score(metric, reported.fold == fold.name).value for fold in scorer.plan.folds]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None
