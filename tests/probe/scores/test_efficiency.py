from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.data import splits
from sgcl_cli.probe.scores import efficiency

CLASSES = ("a", "b")


def setting(patients=300, rare=0.3, slides=1, seed=0):
    patient = np.repeat([f"p{number:04d}" for number in range(patients)], slides)
    label = np.repeat((np.arange(patients) < rare * patients).astype(np.int64), slides)
    ids = np.array([f"s{number:05d}" for number in range(len(patient))])
    plan = splits.cross_validation(ids, label, patient, classes=CLASSES, seed=seed)
    return plan.folds[0], ids, label, patient


def points(*arguments, **changes):
    return list(efficiency.points(*arguments, classes=CLASSES, **changes))


def test_shares_are_nested_in_a_repeat_and_repeats_differ():
    fold, ids, label, patient = setting(slides=3)
    found = points(fold, ids, label, patient)
    assert [(point.share, point.repeat) for point in found][:3] == [(0.01, 0), (0.1, 0), (1.0, 0)]
    assert sum(point.share == 1 for point in found) == 1
    by = {(point.share, point.repeat): set(point.fold.fitted.tolist()) for point in found}
    for repeat in range(5):
        assert by[0.01, repeat] < by[0.1, repeat] < by[1.0, 0]
    assert len({frozenset(by[0.1, repeat]) for repeat in range(5)}) == 5
    assert by[1.0, 0] == set(fold.fitted.tolist())


def test_patients_are_whole_stratified_and_the_test_rows_stay():
    fold, ids, label, patient = setting(slides=3)
    for point in points(fold, ids, label, patient):
        rows = point.fold.fitted
        assert np.isin(patient[fold.fitted], patient[rows]).sum() == len(rows)
        assert not set(patient[point.fold.train]) & set(patient[point.fold.validation])
        assert np.array_equal(point.fold.test, fold.test)
        share = label[rows].mean()
        assert abs(share - 0.3) <= 1 / point.patients + 0.01
        assert len(np.unique(patient[rows])) == point.patients == round(point.share * 240)


def test_a_share_without_a_patient_of_each_class_is_left_out_with_the_reason():
    fold, ids, label, patient = setting(patients=100, rare=0.1)
    (least, *_) = points(fold, ids, label, patient, repeats=1)
    assert least.fold is None
    assert least.reason == "0.01 of 80 patients includes no patient of class 'b'"


def test_the_draw_is_repeatable_and_ignores_the_order_of_rows_and_test_labels():
    fold, ids, label, patient = setting()
    changed = label.copy()
    changed[fold.test] = 1 - changed[fold.test]
    order = np.random.default_rng(0).permutation(len(ids))
    back = np.argsort(order)
    moved = splits.Fold("1", *(np.sort(back[rows]) for rows in (fold.train, fold.validation, fold.test)))
    one = points(fold, ids, label, patient, repeats=2)
    for other, names in (
        (points(fold, ids, changed, patient, repeats=2), ids),
        (points(moved, ids[order], label[order], patient[order], repeats=2), ids[order]),
    ):
        for mine, theirs in zip(one, other, strict=True):
            assert set(ids[mine.fold.train]) == set(names[theirs.fold.train])
            assert set(ids[mine.fold.validation]) == set(names[theirs.fold.validation])


def test_few_patients_have_no_validation_and_keep_training():
    fold, ids, label, patient = setting()
    least = points(fold, ids, label, patient, shares=[0.01], repeats=1)[0]
    assert least.patients == pytest.approx(2, abs=1)
    assert len(least.fold.train) >= 1
