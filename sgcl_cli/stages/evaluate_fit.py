"""The suite of ``sgcl evaluate``: every model in every fold, and the scores of what it says of reported rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.probe import cohort as cohorts
from sgcl_cli.probe import knn, linear, metrics, uncertainty
from sgcl_cli.probe.cohort import Cohort
from sgcl_cli.probe.mil import training
from sgcl_cli.probe.mil.bags import Bags, mean_pool
from sgcl_cli.probe.splits import Fold, Plan
from sgcl_cli.probe.targets import Classes
from sgcl_cli.progress import Reporter
from sgcl_cli.stages import bag_models

Floats = NDArray[np.float64]
Fitted = tuple[Floats, dict[str, Any]]
FitOneFold = Callable[[Fold], Fitted]


@dataclass
class Model:
    """One row of the table: its name and its probabilities for the reported rows."""

    key: str
    name: str
    probability: Floats
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    headlines: dict[str, uncertainty.Headline] = field(default_factory=dict)


def fit(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, reporter: Reporter
) -> tuple[list[Model], dict[str, NDArray[np.float32]]]:
    """Fit every model in every fold; attention by slide comes from the model that did not train on that slide."""
    attention: dict[str, NDArray[np.float32]] = {}
    runs: list[tuple[str, str, FitOneFold]] = [("majority", "Class shares", lambda fold: _majority(cohort, fold))]
    if cohort.level == "patch":
        features = cohorts.patch_features(cohort)
        runs += [
            ("linear", "Logistic regression", lambda fold: _logistic(features, cohort, fold)),
            ("knn", f"Weighted kNN, k {config.knn_k}", lambda fold: _nearest(config, features, cohort, fold)),
        ]
    else:
        rows, offsets = cohorts.bag_rows(cohort)
        pooled = mean_pool(rows, offsets)
        device = engine_runtime.start(config.device, "fp32", config.threads).device
        bags = training.Cohort.of(
            Bags(torch.from_numpy(rows).to(device), torch.from_numpy(offsets).to(device)),
            Classes(torch.from_numpy(cohort.label).to(device), len(cohort.classes)),
            cohort.slide_id,
        )
        runs += [
            ("mean_pool", "Mean pool, logistic regression", lambda fold: _logistic(pooled, cohort, fold)),
            ("abmil", "Gated attention (ABMIL)", lambda fold: _attention(config, bags, cohort, fold, attention)),
        ]
    models = []
    with reporter.task("fitting", len(runs) * len(plan.folds), "fit") as task:
        for key, name, fit_fold in runs:
            model = Model(key, name, np.full((len(cohort), len(cohort.classes)), np.nan))
            for fold in plan.folds:
                task.update(note=f"{name}, fold {fold.name}")
                model.probability[fold.test], model.folds[fold.name] = fit_fold(fold)
                task.advance()
            models.append(model)
    reported, fold_of = reported_rows(cohort, plan)
    for model in models:
        unconverged = [name for name, details in model.folds.items() if details.get("converged") is False]
        if unconverged:
            reporter.warn(f"{model.name} did not converge in fold {', '.join(unconverged)}")
        predictions = metrics.Predictions(
            cohort.label[reported], model.probability[reported], fold_of, cohort.patient_id[reported], cohort.classes
        )
        model.headlines = uncertainty.headlines(
            predictions, resamples=config.bootstrap, confidence=config.confidence, seed=config.seed
        )
    return models, attention


def reported_rows(cohort: Cohort, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Rows that are in some fold's test part, ascending, and the name of that fold."""
    fold_of = np.full(len(cohort), "", dtype=object)
    for fold in plan.folds:
        fold_of[fold.test] = fold.name
    reported = np.flatnonzero(fold_of != "")
    return reported, fold_of[reported].astype(np.str_)


def _majority(cohort: Cohort, fold: Fold) -> Fitted:
    share = np.bincount(cohort.label[fold.fitted], minlength=len(cohort.classes)) / len(fold.fitted)
    return np.tile(share, (len(fold.test), 1)), {}


def _logistic(features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> Fitted:
    probe = linear.fit(
        features, cohort.label, fold.train, fold.validation, classes=len(cohort.classes), path=linear.C_PATH
    )
    details = {
        "c": probe.c,
        "converged": probe.converged,
        "validation_loss": {f"{c:g}": v for c, v in probe.path.items()},
    }
    return probe(features[fold.test]), details


def _nearest(config: EvaluateConfig, features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> Fitted:
    probability = knn.predict(
        features[fold.fitted],
        cohort.label[fold.fitted],
        features[fold.test],
        classes=len(cohort.classes),
        k=config.knn_k,
        temperature=config.knn_temperature,
    )
    return probability, {"k": min(config.knn_k, len(fold.fitted))}


def _attention(
    config: EvaluateConfig,
    bags: training.Cohort,
    cohort: Cohort,
    fold: Fold,
    attention: dict[str, NDArray[np.float32]],
) -> Fitted:
    recipe = bag_models.Recipe(
        "gated", config.mil_epochs, config.mil_patience, config.mil_lr, config.mil_hidden, config.mil_dropout
    )
    fitted = bag_models.fit_fold(recipe, bags, fold, bag_models.seeds_of(config.seed, 1, fold))
    attention.update(zip(cohort.slide_id[fold.test].tolist(), fitted.attention or [], strict=True))
    details = {
        "epochs": fitted.epochs[0],
        "best_epoch": fitted.best_epochs[0],
        "validation_loss": fitted.validation_losses[0],
    }
    return fitted.test.mean(0), details
