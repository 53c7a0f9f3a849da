from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, TrainingError
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.stages.evaluate import models
from sgcl_cli.stages.evaluate.linear_sgd import SgdRecipe, fit_fold

FOLD = Fold("1", np.arange(40), np.arange(40, 60), np.arange(60, 90))
RECIPE = SgdRecipe(epochs=10)


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(90) % 2
    return rng.normal(size=(90, 4)) + label[:, None], label


def fitted(label: np.ndarray, recipe: SgdRecipe = RECIPE) -> tuple[np.ndarray, np.ndarray]:
    done = fit_fold(recipe, rows()[0], label, FOLD, classes=2, device=torch.device("cpu"))
    return done.test, done.validation


def test_validation_rows_are_told_by_a_fit_without_them_and_reported_rows_by_one_with_them() -> None:
    label = rows()[1]
    test, chosen = fitted(label)
    assert (test.argmax(1) == label[FOLD.test]).mean() > 0.8
    turned = label.copy()
    turned[FOLD.validation] = 1 - turned[FOLD.validation]
    other_test, other_chosen = fitted(turned)
    np.testing.assert_array_equal(chosen, other_chosen)
    assert np.abs(test - other_test).max() > 0.01


def test_the_rate_falls_after_60_and_80_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "sgcl_cli.engine.fit.fit",
        lambda work, optimiser, epochs, lr: seen.append([lr(e * work.steps) for e in range(epochs)]),
    )
    fitted(rows()[1], replace(RECIPE, lr=1.0))
    expected = [1.0] * 6 + [0.1] * 2 + [0.01] * 2
    assert seen == [pytest.approx(expected), pytest.approx(expected)]


def test_a_rate_that_diverges_is_named() -> None:
    with pytest.raises(TrainingError, match=r"^at --linear-lr 1e\+38 the loss is (nan|inf)") as caught:
        fitted(rows()[1], replace(RECIPE, lr=1e38))
    assert caught.value.hint == "lower --linear-lr"


def test_it_is_refused_where_there_are_no_classes() -> None:
    names = np.array([f"s{number}" for number in range(90)])
    value = rows()[0][:, 0]
    cohort = Cohort(
        "slide", (), (), names, names, np.zeros(90, int), None, None, "", True, "regression", "", value=value
    )
    config = EvaluateConfig(features="f", out="o", linear="sgd")
    with pytest.raises(ConfigError, match="--linear sgd is for classes, and the task is regression"):
        models._probes(config, cohort, rows()[0], "mean-pool", "Mean pool, ", view="mean")
