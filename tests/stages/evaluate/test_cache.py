from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.models import FoldFit, Model


class Counted:
    """A model that counts its fits."""

    def __init__(self, **settings: object) -> None:
        self.calls = 0
        self.model = Model("m", "M", self.fit, settings)

    def fit(self, fold: Fold) -> FoldFit:
        self.calls += 1
        attention = [np.full(2 + n, 1 / (2 + n), np.float32) for n in range(len(fold.test))]
        kept = Fitted("constant", {"value": np.array([0.25, 0.75])}, {"k": 3})
        return FoldFit(np.full((1, 4, 2), 0.5), np.empty((1, 0, 2)), {"c": 0.1}, attention, [kept])


def test_a_fit_is_made_once_and_read_again_whole(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    counted, fold = Counted(), small_plan.folds[0]
    made = Fits(tmp_path, small_cohort).of(counted.model, fold)
    fits = Fits(tmp_path, small_cohort)
    read = fits.of(counted.model, fold)
    assert (counted.calls, fits.taken, fits.asked) == (1, 1, 1)
    assert np.array_equal(read.test, made.test) and read.validation.shape == (1, 0, 2) and read.details == {"c": 0.1}
    assert read.attention is not None and [part.tolist() for part in read.attention] == [
        part.tolist() for part in made.attention or []
    ]
    assert (read.fitted[0].kind, read.fitted[0].settings) == ("constant", {"k": 3})
    assert read.fitted[0].arrays["value"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("what", ["settings", "fitted labels", "features", "fold"])
def test_what_decides_a_fit_makes_a_new_one(tmp_path: Path, small_cohort: Cohort, small_plan: Plan, what: str) -> None:
    first, second, fold = Counted(c=1), Counted(c=2 if what == "settings" else 1), small_plan.folds[0]
    Fits(tmp_path, small_cohort).of(first.model, fold)
    if what == "fitted labels":
        label = small_cohort.label.copy()
        label[fold.train[0]] = 1 - label[fold.train[0]]
        small_cohort = replace(small_cohort, label=label)
    elif what == "features":
        file = replace(small_cohort.files[0], attributes={"id": "other"})
        small_cohort = replace(small_cohort, files=(file, *small_cohort.files[1:]))
    elif what == "fold":
        fold = small_plan.folds[1]
    Fits(tmp_path, small_cohort).of(second.model, fold)
    assert second.calls == 1


def test_labels_that_are_only_reported_decide_nothing(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    counted, fold = Counted(), small_plan.folds[0]
    Fits(tmp_path, small_cohort).of(counted.model, fold)
    label = small_cohort.label.copy()
    label[fold.test] = 1 - label[fold.test]
    Fits(tmp_path, replace(small_cohort, label=label)).of(counted.model, fold)
    assert counted.calls == 1


def test_a_damaged_fit_is_made_again(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    counted = Counted()
    Fits(tmp_path, small_cohort).of(counted.model, small_plan.folds[0])
    (path,) = (tmp_path / ".cache").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    Fits(tmp_path, small_cohort).of(counted.model, small_plan.folds[0])
    assert counted.calls == 2


def test_fits_that_nobody_asked_for_are_removed(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    counted = Counted()
    for fold in small_plan.folds:
        Fits(tmp_path, small_cohort).of(counted.model, fold)
    fits = Fits(tmp_path, small_cohort)
    fits.of(counted.model, small_plan.folds[1])
    fits.prune()
    assert len([*(tmp_path / ".cache").iterdir()]) == 1 and counted.calls == 3
