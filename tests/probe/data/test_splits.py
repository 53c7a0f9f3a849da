from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data import splits

CLASSES = ("a", "b", "c")


def cohort(patients: int, seed: int, classes: int = 2, most_slides: int = 3):
    """Slides of patients; a patient's slides share its class."""
    rng = np.random.default_rng(seed)
    slides = rng.integers(1, most_slides + 1, size=patients)
    patient = np.repeat([f"p{number:03d}" for number in range(patients)], slides)
    label = np.repeat(np.arange(patients) % classes, slides).astype(np.int64)
    ids = np.array([f"s{number:04d}" for number in range(len(patient))])
    return ids, label, patient


@settings(max_examples=40, deadline=None)
@hypothesis_given(
    patients=st.integers(4, 40), seed=st.integers(0, 10_000), classes=st.integers(2, 3), folds=st.integers(2, 6)
)
def test_a_patient_is_on_one_side_of_a_fold_and_reported_once(patients, seed, classes, folds):
    ids, label, patient = cohort(max(patients, folds * classes), seed, classes)
    plan = splits.cross_validation(ids, label, patient, classes=CLASSES, folds=folds, seed=seed)
    for fold in plan.folds:
        sides = [set(patient[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, sides)) == len(set(patient)), "a patient on two sides, or on none"
        assert set.union(*sides) == set(patient)
        assert len(fold.test) and len(fold.train)
        assert set(label[fold.train]) == set(label)
        assert set(label[fold.test]) == set(label)
    reported = np.concatenate([fold.test for fold in plan.folds])
    assert sorted(reported) == list(range(len(ids)))


@settings(max_examples=30, deadline=None)
@hypothesis_given(seed=st.integers(0, 10_000), patients=st.integers(5, 14))
def test_patients_with_rows_of_several_classes_stay_together(seed, patients):
    rng = np.random.default_rng(seed)
    patient = np.array([f"p{number % patients}" for number in range(8 * patients)])
    label = rng.integers(0, 2, size=len(patient))
    label[:patients] = 0
    label[patients : 2 * patients] = 1
    ids = np.array([f"s{number % patients}" for number in range(len(patient))])
    plan = splits.cross_validation(ids, label, patient, classes=CLASSES, seed=seed)
    splits.verify(plan.folds, patient)
    assert len(plan.folds) == min(5, patients)


@settings(max_examples=20, deadline=None)
@hypothesis_given(seed=st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(seed):
    ids, label, patient = cohort(17, seed)
    order = np.random.default_rng(seed + 1).permutation(len(ids))
    one = splits.cross_validation(ids, label, patient, classes=CLASSES, seed=3)
    other = splits.cross_validation(ids[order], label[order], patient[order], classes=CLASSES, seed=3)
    for mine, theirs in zip(one.folds, other.folds, strict=True):
        for part in ("train", "validation", "test"):
            assert set(ids[getattr(mine, part)]) == set(ids[order][getattr(theirs, part)])


def test_the_seed_decides():
    ids, label, patient = cohort(30, 0)
    tests = [
        [fold.test.tolist() for fold in splits.cross_validation(ids, label, patient, classes=CLASSES, seed=seed).folds]
        for seed in (0, 0, 1)
    ]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_folds_are_stratified():
    ids, label, patient = cohort(50, 1, most_slides=1)
    plan = splits.cross_validation(ids, label, patient, classes=CLASSES)
    assert [np.bincount(label[fold.test]).tolist() for fold in plan.folds] == [[5, 5]] * 5
    for fold in plan.folds:
        assert 0.15 <= len(fold.validation) / len(fold.fitted) <= 0.25


def test_a_class_with_fewer_patients_than_folds_is_an_error():
    ids, label, patient = cohort(40, 0, most_slides=1)
    label[:] = 0
    label[:3] = 1
    with pytest.raises(LabelError, match="class 'rare' has 3 patients, fewer than 5 folds .*--folds 3") as caught:
        splits.cross_validation(ids, label, patient, classes=("normal", "rare"))
    assert caught.value.exit_code == 2
    assert len(splits.cross_validation(ids, label, patient, classes=("normal", "rare"), folds=3).folds) == 3


def test_two_patients_a_class_can_still_be_evaluated_without_validation():
    ids, label, patient = cohort(4, 0, most_slides=1)
    plan = splits.cross_validation(ids, label, patient, classes=CLASSES, folds=2)
    assert len(plan.folds) == 2
    assert all(len(fold.validation) == 0 for fold in plan.folds)
    assert any("too few patients for a validation split" in warning for warning in plan.warnings)


def test_a_class_with_one_patient_is_an_error():
    ids = np.array(["s1", "s2", "s3", "s4"])
    with pytest.raises(LabelError, match="class 'b' has 1 patient") as caught:
        splits.cross_validation(ids, np.array([0, 0, 1, 1]), np.array(["p1", "p2", "p3", "p3"]), classes=CLASSES)
    assert caught.value.exit_code == 2


def test_the_last_patient_of_a_class_stays_in_training():
    ids, label, patient = cohort(20, 0, most_slides=1)
    label[:] = 0
    label[7] = 1
    rows = np.arange(len(ids))
    train, validation = splits.inner_split(ids, label, patient, rows, share=0.25, seed=0)
    assert 7 in train
    assert len(validation) == 5


@pytest.mark.parametrize(("share", "count"), [(0.1, 4), (0.5, 20), (0.8, 32)])
def test_the_validation_share_is_kept(share, count):
    ids, label, patient = cohort(40, 0, most_slides=1)
    train, validation = splits.inner_split(ids, label, patient, np.arange(40), share=share, seed=0)
    assert len(validation) == count
    assert not set(train) & set(validation)


def test_given_splits_are_kept():
    ids, label, patient = cohort(10, 0, most_slides=1)
    column = np.array(["train", "Train", "train", "train", "val", "valid", "train", "train", "test", "test"])
    plan = splits.given(ids, label, patient, column, classes=CLASSES)
    (fold,) = plan.folds
    assert fold.train.tolist() == [0, 1, 2, 3, 6, 7]
    assert fold.validation.tolist() == [4, 5]
    assert fold.test.tolist() == [8, 9]


def test_without_val_rows_validation_comes_from_training_only():
    ids, label, patient = cohort(24, 0)
    column = np.where(np.isin(patient, np.unique(patient)[:6]), "test", "train")
    (fold,) = splits.given(ids, label, patient, column, classes=CLASSES).folds
    assert set(column[fold.validation]) == {"train"}
    assert set(column[fold.test]) == {"test"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "test"}, "patient 'p000' is in both 'train' and 'test'"),
        ({0: "val"}, "patient 'p000' is in both 'train' and 'val'"),
        ({0: "holdout"}, "split of 's0' is 'holdout'"),
        ({0: ""}, "split of 's0' is ''"),
        (dict.fromkeys(range(8), "train"), "no row has split 'test'"),
        (dict.fromkeys(range(8), "test"), "no row has split 'train'"),
        ({2: "test", 3: "test"}, "class 'b' is in 'test' and not in 'train'"),
    ],
)
def test_wrong_splits_are_errors(change, message):
    ids = np.array([f"s{number}" for number in range(8)])
    patient = np.array(["p000", "p000", "p1", "p2", "p3", "p4", "p5", "p6"])
    label = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    column = np.array(["train"] * 6 + ["test"] * 2, dtype=object)
    for row, value in change.items():
        column[row] = value
    with pytest.raises(LabelError, match=message) as caught:
        splits.given(ids, label, patient, column.astype(str), classes=CLASSES)
    assert caught.value.exit_code == 2


def test_verify_notices_a_patient_on_two_sides():
    rows = np.arange(4)
    patient = np.array(["p", "q", "r", "p"])
    with pytest.raises(LabelError, match="'p' would be on two sides"):
        splits.verify([splits.Fold("1", rows[:2], rows[:0], rows[2:])], patient)


def test_every_site_is_left_out_once_and_validation_is_of_other_sites():
    ids, label, patient = cohort(24, 0)
    site = np.array([f"site{int(name[1:]) // 2 % 3}" for name in patient])
    plan = splits.by_site(ids, label, patient, site, classes=CLASSES)
    assert [fold.name for fold in plan.folds] == ["site0", "site1", "site2"]
    for fold in plan.folds:
        assert set(site[fold.test]) == {fold.name}
        assert fold.name not in set(site[fold.fitted])
        assert not set(patient[fold.train]) & set(patient[fold.validation])
        assert len(fold.validation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: ""}, "'s0' has no site"),
        (dict.fromkeys(range(8), "x"), "there is one site only: 'x'"),
        ({1: "y"}, "slides of patient 'p0' are at several sites"),
        ({}, "class 'b' is at site 'y' only"),
    ],
)
def test_sites_that_cannot_be_left_out_are_errors(change, message):
    ids = np.array([f"s{number}" for number in range(8)])
    patient = np.array(["p0", "p0", "p1", "p2", "p3", "p4", "p5", "p6"])
    site = np.array(["x"] * 4 + ["y"] * 4)
    label = np.array([0, 0, 0, 0, 1, 0, 1, 0])
    if change == {1: "y"}:
        label = np.arange(8) % 2
    for row, value in change.items():
        site[row] = value
    with pytest.raises(LabelError, match=message):
        splits.by_site(ids, label, patient, site, classes=CLASSES)


def test_measurements_are_binned_by_patient():
    patient = np.repeat([f"p{n}" for n in range(8)], 2)
    values = np.repeat(np.arange(8.0), 2) + np.tile([0.0, 0.4], 8)
    bins = splits.bins_of(values, patient)
    assert bins.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert splits.bins_of(np.ones(16), patient).tolist() == [0] * 16
