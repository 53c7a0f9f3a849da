from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.stages.evaluate.models import Model, recipe_of, suite

CONFIG = EvaluateConfig(out="o", features="f", device="cpu", threads=1, mil_epochs=1, mil_hidden=8, seeds=1, knn_k=1)


def by_key(cohort: Cohort, config: EvaluateConfig = CONFIG) -> dict[str, Model]:
    return {model.key: model for model in suite(config, cohort)}


@pytest.fixture
def measured(small_cohort: Cohort) -> Cohort:
    value = np.arange(12.0)
    return replace(small_cohort, classes=(), label=np.zeros(12, np.int64), task="regression", value=value)


def test_the_baseline_says_the_class_shares(small_cohort: Cohort, small_plan: Plan) -> None:
    label = small_cohort.label.copy()
    label[4:12] = [0, 0, 0, 0, 0, 0, 1, 1]
    fit = by_key(replace(small_cohort, label=label))["majority"].fit(small_plan.folds[0])
    assert fit.test.tolist() == [[[0.75, 0.25]] * 4] and fit.validation.shape == (1, 0, 2)


def test_the_baseline_of_a_regression_is_the_mean(measured: Cohort, small_plan: Plan) -> None:
    fit = by_key(measured)["majority"].fit(small_plan.folds[0])
    assert fit.test.tolist() == [[[7.5]] * 4]


def test_models_of_slides_see_means_and_counts(small_cohort: Cohort) -> None:
    models = by_key(small_cohort)
    count, mean = models["patch-count"].features, models["mean-pool"].features
    assert count is not None and mean is not None
    np.testing.assert_allclose(count[:3, 0], np.log([3, 4, 5]))
    np.testing.assert_allclose(mean, [file.features.mean(0) for file in small_cohort.files], rtol=1e-5)
    assert (models["patch-count"].view, models["mean-pool"].view) == ("count", "mean")


def test_linear_models_and_centroids_find_classes_that_lie_apart(small_cohort: Cohort, small_plan: Plan) -> None:
    models = by_key(small_cohort)
    for key in ("mean-pool", "simpleshot"):
        fit = models[key].fit(small_plan.folds[0])
        assert fit.test[0].argmax(1).tolist() == [0, 1, 0, 1], key
        np.testing.assert_allclose(fit.test.sum(-1), 1, atol=1e-6)


def test_neighbours_and_centroids_are_for_classes(measured: Cohort) -> None:
    assert {"knn", "simpleshot"} & {*by_key(measured)} == set()
    with pytest.raises(ConfigError, match="--linear sgd is for classes, and the task is regression") as caught:
        by_key(measured, replace(CONFIG, linear="sgd"))
    assert caught.value.hint == "leave it out"


def test_a_bag_model_is_fitted_as_the_settings_say() -> None:
    recipe = recipe_of(replace(CONFIG, mil_epochs=7, mil_patience=2, mil_lr=0.5, mil_hidden=9, mil_dropout=0.125), "x")
    assert (recipe.model, recipe.epochs, recipe.patience, recipe.lr) == ("x", 7, 2, 0.5)
    assert (recipe.hidden, recipe.dropout, recipe.bag_sample) == (9, 0.125, None)
