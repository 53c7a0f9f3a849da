from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.artefacts import store
from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data import split_files, splits

IDS = np.array([f"{number:03d}" for number in range(20)])
LABEL = np.arange(20) % 2
PATIENT = np.array([f"p{number // 2}" for number in range(20)])
ARGUMENTS = {"classes": ("a", "b")}


def plan_of(path, **changes):
    return split_files.plan_from(split_files.read(path), IDS, LABEL, PATIENT, **ARGUMENTS, **changes)


def same(one: splits.Plan, other: splits.Plan) -> bool:
    return [fold.name for fold in one.folds] == [fold.name for fold in other.folds] and all(
        np.array_equal(getattr(a, side), getattr(b, side))
        for a, b in zip(one.folds, other.folds, strict=True)
        for side in ("train", "validation", "test")
    )


def clam(path, train, val, test):
    longest = max(map(len, (train, val, test)))
    lines = [",train,val,test"]
    for row in range(longest):
        cells = [side[row] if row < len(side) else "" for side in (train, val, test)]
        lines.append(f"{row},{','.join(cells)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ours_comes_back_as_it_was_with_the_same_hash(tmp_path):
    plan = splits.cross_validation(IDS, LABEL, PATIENT, folds=3, **ARGUMENTS)
    path = tmp_path / "splits.csv"
    rows = split_files.rows_of(plan, IDS, PATIENT)
    store.write_csv(path, list(rows[0]), rows)
    again = plan_of(path)
    assert same(plan, again)
    assert again.warnings == []
    assert split_files.identity(plan, IDS, PATIENT) == split_files.identity(again, IDS, PATIENT)


def test_the_hash_ignores_the_order_of_rows_and_sees_a_moved_slide():
    plan = splits.cross_validation(IDS, LABEL, PATIENT, folds=3, **ARGUMENTS)
    order = np.random.default_rng(0).permutation(20)
    other = splits.cross_validation(IDS[order], LABEL[order], PATIENT[order], folds=3, **ARGUMENTS)
    seeded = splits.cross_validation(IDS, LABEL, PATIENT, folds=3, seed=1, **ARGUMENTS)
    one = split_files.identity(plan, IDS, PATIENT)
    assert one == split_files.identity(other, IDS[order], PATIENT[order])
    assert one != split_files.identity(seeded, IDS, PATIENT)


def test_images_of_one_folder_go_to_the_sides_of_their_patients(tmp_path):
    ids, patient = np.full(20, "crc"), PATIENT
    plan = splits.cross_validation(ids, LABEL, patient, folds=2, **ARGUMENTS)
    path = tmp_path / "splits.csv"
    rows = split_files.rows_of(plan, ids, patient)
    store.write_csv(path, list(rows[0]), rows)
    assert same(plan, split_files.plan_from(split_files.read(path), ids, LABEL, patient, **ARGUMENTS))


def test_clams_file_and_folder(tmp_path):
    for number in range(2):
        test = [f"{n:03d}" for n in range(4 * number, 4 * number + 4)]
        rest = [slide for slide in IDS.tolist() if slide not in test]
        clam(tmp_path / f"splits_{number}.csv", rest[4:], rest[:4], test)
        (tmp_path / f"splits_{number}_bool.csv").write_text(",train,val,test\n000,True,False,False\n")
    file = split_files.read(tmp_path)
    assert (file.kind, list(file.folds)) == ("CLAM's", ["1", "2"])
    plan = plan_of(tmp_path)
    assert IDS[plan.folds[1].test].tolist() == ["004", "005", "006", "007"]
    assert IDS[plan.folds[1].validation].tolist() == ["000", "001", "002", "003"]
    (alone,) = plan_of(tmp_path / "splits_1.csv").folds
    assert np.array_equal(alone.test, plan.folds[1].test)


def test_a_plain_column_takes_validation_from_training(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text(
        "slide_id,split\n" + "".join(f"{s}.svs,{'Train' if n < 14 else 'test'}\n" for n, s in enumerate(IDS))
    )
    (fold,) = plan_of(path).folds
    assert fold.test.tolist() == list(range(14, 20))
    assert len(fold.validation)
    assert set(fold.validation) < set(range(14))


def test_slides_that_one_side_does_not_know_are_warned_about(tmp_path):
    path = clam(tmp_path / "splits_0.csv", [*IDS[:8], "999"], [], IDS[8:16].tolist())
    plan = plan_of(path)
    assert plan.warnings[:2] == [
        "1 slides of the split file have no features or label, first '999'",
        "4 slides are in no split, first '016'",
    ]
    assert set(plan.folds[0].fitted) == set(range(8))


@pytest.mark.parametrize(
    ("train", "val", "test", "message"),
    [
        (range(7), [], range(7, 12), "'p3' would be on two sides of fold 1"),
        (range(8), range(8, 12), range(8, 12), "slide '008' is in both 'val' and 'test'"),
        (range(8), [], [], "fold 1 has no 'test' slide"),
        (range(0, 8, 2), [], range(8, 12), "class 'b' is in 'test' and not in 'train'"),
    ],
)
def test_wrong_splits_are_errors(tmp_path, train, val, test, message):
    path = clam(tmp_path / "splits_0.csv", *([IDS[n] for n in side] for side in (train, val, test)))
    with pytest.raises(LabelError, match=message) as caught:
        plan_of(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("side", ["train", "val", "test"])
def test_a_side_that_matches_no_slide_is_an_error_that_shows_ids_of_both(tmp_path, side):
    sides = {"train": IDS[:6].tolist(), "val": IDS[6:9].tolist(), "test": IDS[9:].tolist()}
    sides[side] = ["x1", "x2", "x3"]
    path = clam(tmp_path / "splits_0.csv", *sides.values())
    with pytest.raises(
        LabelError, match=f"fold 1 has no '{side}' slide.*names 'x1', 'x2' and 1 more, the slides are '000', '001' and "
    ):
        plan_of(path)


def test_clams_repeated_random_splits_are_repetitions(tmp_path):
    """As its create_splits_seq.py writes them: each file draws its test slides from all, so patients are there again."""
    tests = (IDS[10:].tolist(), IDS[8:14].tolist(), IDS[12:16].tolist())
    for number, test in enumerate(tests):
        clam(tmp_path / f"splits_{number}.csv", [slide for slide in IDS.tolist() if slide not in test], [], test)
        (tmp_path / f"splits_{number}_descriptor.csv").write_text(",train,val,test\na,1,2,3\n")
    plan = plan_of(tmp_path)
    assert plan.repeats and [IDS[fold.test].tolist() for fold in plan.folds] == [*tests]
    assert plan.warnings[0].startswith("3 of 6 reported patients are reported by several of the 3 divisions")
    path = tmp_path / "splits.csv"
    rows = split_files.rows_of(plan, IDS, PATIENT)
    store.write_csv(path, list(rows[0]), rows)
    again = plan_of(path)
    assert same(plan, again) and again.repeats
    with pytest.raises(LabelError, match="'p5' would be on two sides of fold 1"):
        splits.verify(plan.folds, np.full(20, "p5"), repeats=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("slide_id,label\n1,a\n", "is no split file: its columns are label, slide_id"),
        (",train,val,test\n000,True,False,False\n", "splits_N.csv, not splits_N_bool.csv"),
        ("slide_id,split\n1,holdout\n", "split of '1' is 'holdout'"),
        ("slide_id,split\n1,train\n1,test\n", "slide '1' is in both 'train' and 'test'"),
    ],
)
def test_other_files_are_errors(tmp_path, content, message):
    path = tmp_path / "file.csv"
    path.write_text(content)
    with pytest.raises(LabelError, match=message):
        split_files.read(path)


def test_a_folder_without_splits_is_an_error(tmp_path):
    with pytest.raises(LabelError, match="has no splits_0.csv"):
        split_files.read(tmp_path)
