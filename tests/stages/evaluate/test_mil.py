from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.training import BagCohort
from sgcl_cli.probe.models.targets import Classes
from sgcl_cli.stages.evaluate.mil import BagFit, MilRecipe, fit_fold, seeds_of, threads_for


def fitted(cohort: Cohort, plan: Plan, seeds: list[int], **recipe: object) -> BagFit:
    rows = torch.from_numpy(np.concatenate([file.features for file in cohort.files]))
    offsets = torch.tensor([0, *np.cumsum([len(file) for file in cohort.files]).tolist()])
    packed = BagCohort.of(Bags(rows, offsets), Classes(torch.from_numpy(cohort.label), 2), cohort.slide_id)
    settings = MilRecipe(**{"epochs": 3, "patience": 3, "hidden": 8, **recipe})  # type: ignore[arg-type]
    return fit_fold(settings, packed, plan.folds[0], seeds)


def test_every_seed_predicts_and_attention_sums_to_one(small_cohort: Cohort, small_plan: Plan) -> None:
    found = fitted(small_cohort, small_plan, [1, 2])
    assert found.test.shape == found.validation.shape == (2, 4, 2) and len(found.fitted) == 2
    np.testing.assert_allclose(found.test.sum(-1), 1, atol=1e-6)
    assert found.attention is not None and [len(weights) for weights in found.attention] == [2, 3, 4, 2]
    np.testing.assert_allclose([weights.sum() for weights in found.attention], 1, atol=1e-5)
    assert all(1 <= best <= epochs <= 3 for best, epochs in zip(found.best_epochs, found.epochs, strict=True))


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
