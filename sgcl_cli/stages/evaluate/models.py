"""The models of ``sgcl evaluate`` for a level and a task, and how each is fitted in a fold.

A fit uses the training and validation rows of the fold. It predicts the test rows, and the validation rows by a fit on
the training rows alone. K is the number of classes, or 1: the value of a regression, the log risk of survival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.evaluations import BASELINE, PATCH_COUNT
from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.errors import ConfigError
from sgcl_cli.probe import fitted
from sgcl_cli.probe.data import cohort as cohorts
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.probe.mil import models, training
from sgcl_cli.probe.mil.bags import Bags, mean_pool
from sgcl_cli.probe.models import knn, linear, linear_cox, ridge, simpleshot
from sgcl_cli.probe.models.targets import Classes, Measurements, Survival, Target
from sgcl_cli.probe.scores.efficiency import SHARES
from sgcl_cli.stages.evaluate import linear_sgd, mil

Floats = NDArray[np.float64]


@dataclass
class FoldFit:
    """Predictions of a model in one fold, by S seeds (1 for models without random numbers), and the fitted models.

    :ivar test: (S, n, K), of the test rows.
    :ivar validation: (S, v, K), of the validation rows; v is 0 for models that choose nothing.
    :ivar details: what was chosen, as JSON values.
    :ivar attention: of each test bag (N,), mean of the seeds; None for models without attention.
    :ivar fitted: one model a seed; empty for models that are not stored.
    """

    test: Floats
    validation: Floats
    details: dict[str, Any] = field(default_factory=dict)
    attention: list[NDArray[np.float32]] | None = None
    fitted: list[Fitted] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """One row of the table of scores.

    :ivar key: its name in files.
    :ivar name: its title in reports.
    :ivar fit: fits it in a fold.
    :ivar settings: those that its fits depend on.
    :ivar shares: shares of the fitted patients at which it has a label-efficiency curve.
    :ivar parts: models that are fitted and cached separately; ``join`` combines their fits into one of this model.
    :ivar join: see ``parts``; None for a model without parts.
    :ivar features: (n, D), one row for each row of the cohort; None for a model of bags.
    :ivar view: what ``features`` are: ``patch``, the ``mean`` of a slide's patches, or their ``count``; ``bags`` for a model of
        bags; empty for models that are not stored.
    """

    key: str
    name: str
    fit: Callable[[Fold], FoldFit]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    parts: tuple[Model, ...] = ()
    join: Callable[[Sequence[FoldFit]], FoldFit] | None = None
    features: NDArray[np.floating] | None = field(default=None, repr=False)
    view: str = ""


def suite(config: EvaluateConfig, cohort: Cohort) -> list[Model]:
    """The models of a level and a task, the baseline first."""
    if cohort.level == "patch":
        return [_baseline(cohort), *_probes(config, cohort, cohorts.patch_features(cohort), "linear", "", view="patch")]
    rows, offsets = cohorts.bag_rows(cohort)
    count = np.log1p(np.diff(offsets).astype(np.float64))[:, None]
    return [
        _baseline(cohort),
        Model(
            PATCH_COUNT,
            "Patch count only",
            lambda fold: _linear(count, cohort, fold),
            _penalties(cohort),
            features=count,
            view="count",
        ),
        *_probes(config, cohort, mean_pool(rows, offsets), "mean-pool", "Mean pool, ", view="mean"),
        *_bag_models(config, cohort, rows, offsets),
    ]


def _baseline(cohort: Cohort) -> Model:
    name = {"regression": "Mean of training", "survival": "Equal risks"}.get(cohort.task, "Class shares")
    return Model(BASELINE, name, lambda fold: _constant(cohort, fold))


def _probes(
    config: EvaluateConfig, cohort: Cohort, features: NDArray[np.floating], key: str, prefix: str, *, view: str
) -> list[Model]:
    """The linear model of the task, and for classes kNN and SimpleShot."""
    kind = {"regression": "ridge regression", "survival": "Cox regression"}.get(cohort.task, "logistic regression")
    named = prefix + kind if prefix else kind.capitalize()
    asked = {
        *(SHARES if config.label_efficiency else ()),
        *(config.tuned_shares if config.finetune is not None else ()),
    }
    shares = tuple(sorted(asked))
    of: dict[str, Any] = {"features": features, "view": view}
    if config.linear == "sgd":
        found = [_linear_sgd(config, cohort, features, key, prefix, shares=shares, view=view)]
    else:
        found = [Model(key, named, lambda fold: _linear(features, cohort, fold), _penalties(cohort), shares, **of)]
    if cohort.classes:
        settings = {"k": config.knn_k or list(knn.KS), "temperature": config.knn_temperature}
        found += [
            Model("knn", f"{prefix}weighted kNN" if prefix else "Weighted kNN",
                  lambda fold: _nearest(config, features, cohort, fold), settings, shares, **of),
            Model("simpleshot", f"{prefix}SimpleShot", lambda fold: _centroids(features, cohort, fold), {}, shares, **of),
        ]  # fmt: skip
    return found


def _linear_sgd(
    config: EvaluateConfig,
    cohort: Cohort,
    features: NDArray[np.floating],
    key: str,
    prefix: str,
    *,
    shares: tuple[float, ...],
    view: str,
) -> Model:
    if not cohort.classes:
        raise ConfigError(f"--linear sgd is for classes, and the task is {cohort.task}", "leave it out")
    device = engine_runtime.start(config.device, "fp32", config.threads).device
    recipe = linear_sgd.SgdRecipe(config.linear_epochs, config.linear_lr, config.seed)
    classes = len(cohort.classes)

    def fit(fold: Fold) -> FoldFit:
        done = linear_sgd.fit_fold(recipe, features, cohort.label, fold, classes=classes, device=device)
        return _single(done.test, {}, done.fitted, done.validation)

    name = f"{prefix}linear layer by SGD" if prefix else "Linear layer by SGD"
    return Model(key, name, fit, vars(recipe), shares, features=features, view=view)


def _penalties(cohort: Cohort) -> dict[str, Any]:
    paths = {"regression": ridge.ALPHA_PATH, "survival": linear_cox.C_PATH}
    return {"path": list(paths.get(cohort.task, linear.C_PATH))}


def _bag_models(
    config: EvaluateConfig, cohort: Cohort, rows: NDArray[np.floating], offsets: NDArray[np.int64]
) -> list[Model]:
    device = engine_runtime.start(config.device, "fp32", config.threads).device
    bags = Bags(torch.from_numpy(rows).to(device), torch.from_numpy(offsets).to(device))

    def model_of(key: str) -> Model:
        recipe = recipe_of(config, key)
        settings = {**vars(recipe), "seeds": config.seeds, "seed": config.seed}
        named = models.MODELS[key][1]
        return Model(key, named, lambda fold: _bags(config, recipe, bags, cohort, fold), settings, view="bags")

    return [model_of(key) for key in config.bag_models]


def recipe_of(config: EvaluateConfig, key: str) -> mil.MilRecipe:
    """The recipe of a bag model, from --mil-* and --bag-sample."""
    return mil.MilRecipe(
        key,
        config.mil_epochs,
        config.mil_patience,
        config.mil_lr,
        config.mil_hidden,
        config.mil_dropout,
        config.bag_sample,
    )


def _constant(cohort: Cohort, fold: Fold) -> FoldFit:
    """The prediction without features: class shares, the mean, or equal risks."""
    if cohort.value is not None:
        constant = np.array([cohort.value[fold.fitted].mean()])
    elif cohort.event is not None:
        constant = np.zeros(1)
    else:
        constant = np.bincount(cohort.label[fold.fitted], minlength=len(cohort.classes)) / len(fold.fitted)
    return _single(np.tile(constant, (len(fold.test), 1)), {}, fitted.constant(constant))


def _linear(features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> FoldFit:
    """Logistic, ridge or Cox regression; the penalty is chosen on the validation rows."""
    if cohort.value is not None:
        measured = ridge.fit(features, cohort.value, fold.train, fold.validation)
        details = {"alpha": measured.alpha, "validation_loss": _as_text(measured.path)}
        return _single(measured(features[fold.test])[:, None], details, fitted.ridge(measured))
    if cohort.event is not None and cohort.time is not None:
        risk = linear_cox.fit(features, cohort.time, cohort.event, fold.train, fold.validation)
        details = {"c": risk.c, "converged": risk.converged, "validation_loss": _as_text(risk.path)}
        return _single(risk(features[fold.test])[:, None], details, fitted.cox(risk))
    probe = linear.fit(
        features, cohort.label, fold.train, fold.validation, classes=len(cohort.classes), path=linear.C_PATH
    )
    details = {"c": probe.c, "converged": probe.converged, "validation_loss": _as_text(probe.path)}
    return _single(probe(features[fold.test]), details, fitted.logistic(probe), probe.validation)


def _nearest(config: EvaluateConfig, features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> FoldFit:
    arguments: dict[str, Any] = {"classes": len(cohort.classes), "temperature": config.knn_temperature}
    ks = knn.KS if config.knn_k is None else (config.knn_k,)
    k, scores = knn.choose(features, cohort.label, fold.train, fold.validation, ks=ks, **arguments)

    def votes(known: NDArray[np.int64], asked: NDArray[np.int64]) -> Floats:
        return knn.votes(features[known], cohort.label[known], features[asked], ks=(k,), **arguments)[k]

    details = {"k": min(k, len(fold.fitted)), "validation_brier": _as_text(scores)}
    kept = fitted.neighbours(fold.fitted, cohort.label[fold.fitted], k=k, **arguments)
    return _single(votes(fold.fitted, fold.test), details, kept, votes(fold.train, fold.validation))


def _centroids(features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> FoldFit:
    def of(known: NDArray[np.int64]) -> simpleshot.Centroids:
        return simpleshot.Centroids.fit(features[known], cohort.label[known], classes=len(cohort.classes))

    found = of(fold.fitted)
    chosen = of(fold.train)(features[fold.validation])
    return _single(found(features[fold.test]), {}, fitted.centroids(found), chosen)


def _bags(config: EvaluateConfig, recipe: mil.MilRecipe, bags: Bags, cohort: Cohort, fold: Fold) -> FoldFit:
    packed = training.BagCohort.of(bags, _target(cohort, fold, bags.rows.device), cohort.slide_id)
    done = mil.fit_fold(recipe, packed, fold, mil.seeds_of(config.seed, config.seeds, fold))
    details = {"epochs": done.epochs, "best_epochs": done.best_epochs, "validation_losses": done.validation_losses}
    return FoldFit(done.test, done.validation, details, done.attention, done.fitted)


def _target(cohort: Cohort, fold: Fold, device: torch.device) -> Target:
    if cohort.value is not None:
        return Measurements.fit(torch.from_numpy(cohort.value).to(device), fold.train)
    if cohort.event is not None and cohort.time is not None:
        return Survival(torch.from_numpy(cohort.time).to(device), torch.from_numpy(cohort.event).to(device))
    return Classes(torch.from_numpy(cohort.label).to(device), len(cohort.classes))


def _single(test: Floats, details: dict[str, Any], kept: Fitted, validation: Floats | None = None) -> FoldFit:
    chosen = np.empty((0, test.shape[1])) if validation is None else validation
    return FoldFit(test[None], chosen[None], details, fitted=[kept])


def _as_text(path: Mapping[float, float] | Mapping[int, float]) -> dict[str, float]:
    return {f"{setting:g}": value for setting, value in path.items()}
