from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import NOBODY, Plan
from sgcl_cli.probe.fitted import predict_bags
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.training import BagCohort
from sgcl_cli.probe.models.targets import Classes
from sgcl_cli.stages.evaluate.mil import BagFit, MilRecipe, fit_fold, seeds_of, threads_for


def packed_bags(cohort: Cohort) -> Bags:
    rows = torch.from_numpy(np.concatenate([file.features for file in cohort.files]))
    return Bags(rows, torch.tensor([0, *np.cumsum([len(file) for file in cohort.files]).tolist()]))


def fitted(cohort: Cohort, plan: Plan, seeds: list[int], **recipe: object) -> BagFit:
    packed = BagCohort.of(packed_bags(cohort), Classes(torch.from_numpy(cohort.label), 2), cohort.slide_id)
    settings = MilRecipe(**{"epochs": 3, "patience": 3, "hidden": 8, **recipe})  # type: ignore[arg-type]
    return fit_fold(settings, packed, plan.folds[0], seeds)


def test_every_seed_predicts_and_attention_sums_to_one(small_cohort: Cohort, small_plan: Plan) -> None:
    found = fitted(small_cohort, small_plan, [1, 2])
    assert found.test.shape == found.validation.shape == (2, 4, 2) and len(found.fitted) == 2
    np.testing.assert_allclose(found.test.sum(-1), 1, atol=1e-6)
    assert found.attention is not None and [len(weights) for weights in found.attention] == [2, 3, 4, 2]
    np.testing.assert_allclose([weights.sum() for weights in found.attention], 1, atol=1e-5)
    assert all(1 <= best <= epochs <= 3 for best, epochs in zip(found.best_epochs, found.epochs, strict=True))


@pytest.mark.parametrize("name", ["mean", "max"])
def test_a_model_without_attention_predicts_and_is_stored_as_any_other(
    small_cohort: Cohort, small_plan: Plan, name: str
) -> None:
    found = fitted(small_cohort, small_plan, [1, 2], model=name, epochs=20, lr=0.03)
    assert found.attention is None and found.test.shape == found.validation.shape == (2, 4, 2)
    fold = small_plan.folds[0]
    assert (found.test.argmax(-1) == small_cohort.label[fold.test]).all()
    again, attention = predict_bags(found.fitted[1], packed_bags(small_cohort).take(fold.test))
    assert attention is None
    np.testing.assert_allclose(again, found.test[1], atol=1e-6)


def test_without_validation_there_are_no_validation_predictions_and_the_last_epoch_stays(
    small_cohort: Cohort, small_plan: Plan
) -> None:
    folds = [replace(fold, validation=NOBODY) for fold in small_plan.folds]
    found = fitted(small_cohort, Plan(folds), [1, 2])
    assert found.validation.shape == (2, 0, 2)
    assert found.best_epochs == found.epochs == [3, 3] and found.validation_losses == [None, None]


def test_a_fit_follows_from_its_seed(small_cohort: Cohort, small_plan: Plan) -> None:
    both, alone = fitted(small_cohort, small_plan, [1, 2]), fitted(small_cohort, small_plan, [2])
    assert np.array_equal(both.test[1], alone.test[0]) and not np.array_equal(both.test[0], both.test[1])


def test_a_loss_that_is_not_finite_names_the_setting(small_cohort: Cohort, small_plan: Plan) -> None:
    for file in small_cohort.files:
        file.features[:] = np.nan
    with pytest.raises(TrainingError, match="at --mil-lr 0.0003 the loss is nan at step") as caught:
        fitted(small_cohort, small_plan, [1])
    assert caught.value.hint == "lower --mil-lr"


def test_seeds_differ_between_folds_and_runs(small_plan: Plan) -> None:
    first, second = small_plan.folds[:2]
    assert seeds_of(0, 3, first)[:2] == seeds_of(0, 2, first)
    assert len({*seeds_of(0, 3, first), *seeds_of(0, 3, second), *seeds_of(1, 3, first)}) == 9


@pytest.mark.parametrize(("rows", "expected"), [(100, 1), (4096, 2)])
def test_small_batches_run_on_one_thread(rows: float, expected: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads_for(rows):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
