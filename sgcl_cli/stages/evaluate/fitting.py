"""Fits and scores the models of ``sgcl evaluate``, and estimates the time beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.models import Kept
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.evaluate import efficiency as evaluate_efficiency
from sgcl_cli.stages.evaluate import patch_scores
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.checks import check_scores
from sgcl_cli.stages.evaluate.keep import refit_fold
from sgcl_cli.stages.evaluate.models import FoldFit, Model, suite
from sgcl_cli.stages.evaluate.scores import Scored, Scorer

_TIMED_ROWS = 400
_TIMED_BAGS = 12
_TIMED_EPOCHS = 3


@dataclass
class Scores:
    """All models with their scores; attention and scores of patches by slide, from models that did not train on the slide.

    :ivar models: in the order of the table.
    :ivar attention_model: key of the first model with attention; None without one.
    :ivar attention: of each slide, (N,).
    :ivar patch_model: key of the model that scores patches; None where none can.
    :ivar patches: scores of the patches of each slide, (N, K).
    :ivar efficiency: label-efficiency curves as JSON values; None where not requested.
    :ivar kept: the fitted models of the folds and, with --refit, of all rows, by key.
    """

    models: list[Scored]
    attention_model: str | None = None
    attention: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    patch_model: str | None = None
    patches: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    efficiency: dict[str, Any] | None = None
    kept: dict[str, Kept] = field(default_factory=dict)


def fit(
    config: EvaluateConfig,
    cohort: Cohort,
    plan: Plan,
    fits: Fits,
    audit: Audit,
    *,
    reporter: Reporter,
    tuned: Sequence[Model] = (),
) -> Scores:
    """Fit every model in every fold, or read the cached fit; score the models; add warnings about scores to the audit.

    :param tuned: networks that are fitted on patch images; on all labels only if 100 is among --finetune-shares.
    """
    every = [*suite(config, cohort), *tuned]
    models = [model for model in every if not model.parts or 1.0 in model.shares]
    scorer = Scorer(config, cohort, plan)
    scores = Scores([])
    again = [refit_fold(plan)] if config.refit else []
    kept = sum(1 for model in models if model.view)
    with reporter.task("fitting", len(models) * len(plan.folds) + kept * len(again), "fit") as bar:
        for model in models:
            of_folds = []
            for fold in plan.folds:
                bar.update(note=f"{model.name}, fold {fold.name}")
                of_folds.append(fits.of(model, fold))
                bar.advance()
            if model.view:
                named = {fold.name: fit.fitted for fold, fit in zip(plan.folds, of_folds, strict=True)}
                for fold in again:
                    bar.update(note=f"{model.name}, all patients")
                    named[fold.name] = fits.of(model, fold).fitted
                    bar.advance()
                scores.kept[model.key] = Kept(model.name, model.view, named, model.features)
            scores.models.append(scorer.score(model, of_folds))
            if scores.attention_model is None and of_folds[0].attention is not None:
                scores.attention_model = model.key
                scores.attention = _attention(cohort, plan, of_folds)
    if cohort.level == "slide":
        scores.patch_model, scores.patches = _patch_scores(config, cohort, plan, scores)
    if any(model.shares for model in every):
        scores.efficiency = evaluate_efficiency.curves(config, cohort, plan, every, fits, reporter=reporter)
    fits.prune()
    if fits.taken:
        reporter.note(f"{fits.taken} of {fits.asked} fits were read from the cache")
    for warning in check_scores(scores.models, cohort.task, audit):
        reporter.warn(warning)
    return scores


def _patch_scores(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, scores: Scores
) -> tuple[str | None, dict[str, NDArray[np.float64]]]:
    """Scores of the patches of each slide by the model of the fold that tests the slide, and the model's key.

    It is the model with attention, else the first linear model; None where there is neither.
    """
    kinds = {
        key: (fits[0].kind, fits[0].settings, kept.view)
        for key, kept in scores.kept.items()
        if (fits := kept.folds[plan.folds[0].name])
    }
    key = patch_scores.model_of(kinds, scores.attention_model)
    if key is None:
        return None, {}
    device = engine_runtime.start(config.device, "fp32", config.threads).device
    fold_of = {cohort.slide_id[row]: fold.name for fold in plan.folds for row in fold.test.tolist()}
    found = {
        slide: patch_scores.mean_of_seeds(scores.kept[key].folds[fold_of[slide]], file.features, device)
        for file, slide in zip(cohort.files, cohort.slide_id.tolist(), strict=True)
        if slide in fold_of
    }
    return key, found


def _attention(cohort: Cohort, plan: Plan, fits: Sequence[FoldFit]) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    for fold, fitted in zip(plan.folds, fits, strict=True):
        found.update(zip(cohort.slide_id[fold.test].tolist(), fitted.attention or [], strict=True))
    return found


def expected_seconds(config: EvaluateConfig, cohort: Cohort, plan: Plan) -> float:
    """Upper bound of the time of fitting: each model is timed on a few rows of the first fold, bag models by epoch.

    Time is assumed to be proportional to the number of rows. Early stopping makes bag models faster.
    """
    fold, total = plan.folds[0], 0.0
    short, long = (
        replace(config, mil_epochs=epochs, mil_patience=epochs, seeds=1) for epochs in (1, 1 + _TIMED_EPOCHS)
    )
    for model, longer in zip(suite(short, cohort), suite(long, cohort), strict=True):
        bags = model.key in config.bag_models
        few = _few(cohort, fold, _TIMED_BAGS if bags else _TIMED_ROWS)
        model.fit(few)  # the first call imports libraries and allocates memory
        once = _seconds(model, few)
        if bags:
            epoch = max(0.0, _seconds(longer, few) - once) / _TIMED_EPOCHS
            once = config.seeds * (once + (config.mil_epochs - 1) * epoch)
        total += once * len(plan.folds) * max(1.0, len(fold.fitted) / len(few.fitted))
    return total


def _seconds(model: Model, fold: Fold) -> float:
    start = time.perf_counter()
    model.fit(fold)
    return time.perf_counter() - start


def _few(cohort: Cohort, fold: Fold, rows: int) -> Fold:
    """A fold of at most ``rows`` training rows, with all classes, and a tenth of that as validation and test rows."""
    strata = cohort.label if cohort.event is None else cohort.event
    order = np.argsort(np.concatenate([np.arange(n) for n in np.bincount(strata[fold.train])]), kind="stable")
    by_class = fold.train[np.argsort(strata[fold.train], kind="stable")][order]
    few = max(1, rows // 10)
    return Fold(fold.name, np.sort(by_class[:rows]), fold.validation[:few], fold.test[:few])


def rough_duration(seconds: float) -> str:
    """A duration as text, in minutes or hours: ``at most about 12 minutes``."""
    if seconds < 60:
        return "under a minute"
    if seconds < 90:
        return "at most about a minute"
    return (
        f"at most about {seconds / 60:.0f} minutes" if seconds < 5400 else f"at most about {seconds / 3600:.1f} hours"
    )
