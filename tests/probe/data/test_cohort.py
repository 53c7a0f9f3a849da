from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile, FeatureSet
from sgcl_cli.artefacts.labels import LabelRow, Labels
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.data import cohort
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import FeatureSource


def feature_file(slide: str, patches: int = 3, dim: int = 4, **columns) -> FeatureFile:
    seed = [*slide.encode()]
    attributes = {"id": f"id of {slide}", **columns.pop("attributes", {})}
    features = np.random.default_rng(seed).normal(size=(patches, dim)).astype(np.float32)
    return FeatureFile(Path(f"{slide}.h5"), slide, features, attributes=attributes, **columns)


def features(*files: FeatureFile | str) -> tuple[FeatureSource, ...]:
    made = [feature_file(file) if isinstance(file, str) else file for file in files]
    return (FeatureSource(FeatureSet(Path("features"), tuple(made))),)


def table(rows: dict[str, str], *, patients=None, splits=None) -> Labels:
    return Labels(
        Path("labels.csv"),
        tuple(
            LabelRow(name, label, (patients or {}).get(name, name), None, (splits or {}).get(name))
            for name, label in sorted(rows.items())
        ),
        patients is not None,
        (),
    )


def slides(sources, labels, audit=None, task="auto", allow_missing=False):
    return cohort.by_slide(sources, labels, task=task, allow_missing=allow_missing, audit=audit or Audit())


def patches(sources, labels=None, audit=None, task="auto"):
    return cohort.by_patch(sources, labels, task=task, audit=audit or Audit())


def test_slides_are_joined_by_id_and_keep_leading_zeros():
    found = slides(features("007", "7", "b"), table({"007": "x", "b": "y"}))
    assert found.slide_id.tolist() == ["007", "b"]
    assert found.classes == ("x", "y")
    assert found.label.tolist() == [0, 1]
    assert found.patients_from == "no column patient_id: a patient is a slide"


def test_the_ledger_names_who_is_left_out():
    audit = Audit()
    found = slides(
        features(*[f"s{number:02d}" for number in range(30)], feature_file("s30", patches=0), "unlabelled"),
        table({f"s{number:02d}": "xy"[number % 2] for number in range(31)}),
        audit,
    )
    assert len(found) == 30
    assert audit.ledger == {
        "labelled": 31,
        "feature_files": 32,
        "matched": 30,
        "labelled_without_features": ["s30"],
        "features_without_labels": ["unlabelled"],
        "features_without_patches": ["s30"],
        "seen_in_pretraining": [],
    }
    assert [finding.code for finding in audit.findings] == ["missing_features", "missing_labels", "no_patients"]


def test_many_labelled_slides_without_features_are_an_error_unless_allowed():
    sources, labels = features("a", "b", "c"), table({"a": "x", "b": "y", "c": "x", "d": "y"})
    with pytest.raises(LabelError, match="1 of 4 labelled slides have no features: 'd'") as caught:
        slides(sources, labels)
    assert caught.value.exit_code == 2
    assert "--allow-missing" in caught.value.hint
    assert len(slides(sources, labels, allow_missing=True)) == 3


def test_no_match_shows_both_spellings():
    with pytest.raises(LabelError, match="the table names 'x1', 'x2', the files are 'a', 'b'") as caught:
        slides(features("a", "b"), table({"x1": "u", "x2": "v"}))
    assert caught.value.exit_code == 2


def test_one_class_only():
    with pytest.raises(LabelError, match="there is one class only: 'x'") as caught:
        slides(features("a", "b"), table({"a": "x", "b": "x"}))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "2"], ("2", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        (["1", "0"], ("0", "1")),
        (["nan", "inf"], ("inf", "nan")),
    ],
)
def test_classes_are_ordered(labels, classes):
    assert cohort.class_names(labels, "auto") == classes


@pytest.mark.parametrize("labels", [["0.5", "1.5", "2"], [str(number) for number in range(11)]])
def test_measurements_are_no_classes(labels):
    with pytest.raises(LabelError, match="measurements, not classes"):
        cohort.class_names(labels, "auto")
    assert len(cohort.class_names(labels, "multiclass")) == len(labels)


def test_binary_with_three_classes():
    with pytest.raises(ConfigError, match="--task is binary and there are 3 classes") as caught:
        cohort.class_names(["a", "b", "c"], "binary")
    assert caught.value.exit_code == 2


def test_the_same_slide_under_two_names():
    twin = {"attributes": {"source_identity": "same"}}
    sources = features(feature_file("a", **twin), feature_file("b", **twin), "c")
    labels = {"a": "x", "b": "y", "c": "x"}
    with pytest.raises(LabelError, match="'a' and 'b' are the same slide under two names") as caught:
        slides(sources, table(labels))
    assert caught.value.exit_code == 2
    audit = Audit()
    slides(sources, table(labels, patients={"a": "p", "b": "p", "c": "q"}), audit)
    assert [finding.code for finding in audit.findings] == ["twins"]


def test_slides_seen_in_pretraining_are_transductive():
    seen = json.dumps(["identity of a", "identity of z"])
    audit = Audit()
    slides(
        features(
            *(
                feature_file(n, attributes={"source_identity": f"identity of {n}", "pretrain_slides": seen})
                for n in "ab"
            )
        ),
        table({"a": "x", "b": "y"}),
        audit,
    )
    assert audit.ledger["seen_in_pretraining"] == ["a"]
    assert audit.ledger["patients_seen_in_pretraining"] == ["a"]
    assert audit.warnings[1:] == [
        "transductive: the encoder was pretrained, without labels, on 1 of these 2 slides, of 1 of 2 patients: 'a'; "
        "scores on slides that it has not seen may be lower"
    ]


def test_slides_and_folders_whose_labels_a_probe_used_are_named():
    asked = json.dumps(["identity of b", "folder c"])
    files = [
        feature_file(
            n, attributes={"source_identity": f"identity of {n}", "patches_id": f"folder {n}", "probe_slides": asked}
        )
        for n in "abc"
    ]
    audit = Audit()
    slides(features(*files), table({"a": "x", "b": "y", "c": "x"}), audit)
    assert audit.ledger["used_by_a_probe"] == ["b", "c"]
    assert [finding.code for finding in audit.findings] == ["no_patients", "probed"]
    assert "used the labels of 2 of these 3 slides" in audit.warnings[1] and audit.warnings[1].endswith("'b', 'c'")


def labelled(slide: str, labels: list[int], names=("fat", "tumour"), **columns) -> FeatureFile:
    return feature_file(slide, len(labels), label=np.array(labels, np.int16), label_names=tuple(names), **columns)


def test_patches_without_a_label_are_left_out():
    found = patches(features(labelled("b", [0, -1, 1]), labelled("a", [1, 1, -1, 0]), feature_file("c")))
    assert found.slide_id.tolist() == ["a", "a", "a", "b", "b"]
    assert found.row.tolist() == [0, 1, 3, 0, 2]
    assert found.label.tolist() == [1, 1, 0, 0, 1]
    rows = cohort.patch_features(found)
    np.testing.assert_array_equal(rows[2], found.files[0].features[3])
    np.testing.assert_array_equal(rows[4], found.files[1].features[2])


def test_class_numbers_of_files_are_joined_by_name():
    found = patches(features(labelled("a", [0, 1]), labelled("b", [0, 1], names=("tumour", "gland"))))
    assert found.classes == ("fat", "gland", "tumour")
    assert found.label.tolist() == [0, 2, 2, 1]


def test_patients_of_patches_come_from_the_table():
    labels = table(dict.fromkeys("ab", ""), patients={"a": "p", "b": "p"}, splits={"a": "train", "b": "test"})
    found = patches(features(labelled("a", [0, 1]), labelled("b", [0, 1])), labels)
    assert set(found.patient_id.tolist()) == {"p"}
    assert found.split.tolist() == ["train", "train", "test", "test"]


def test_images_have_their_groups_or_count_as_one_each():
    audit = Audit()
    images = {"name": ("x/1.jpg", "x/2.jpg", "y/1.jpg")}
    found = patches(features(labelled("a", [0, 1, 1], **images)), audit=audit)
    assert found.patients == 3
    assert audit.findings[0].code == "no_patients"
    found = patches(features(labelled("a", [0, 1, 1], group=("p", "q", "q"), **images)), audit=audit)
    assert found.patient_id.tolist() == ["p", "q", "q"]


def test_no_labelled_patch_and_no_table():
    with pytest.raises(LabelError, match="no patch in 'a', 'b' has a label") as caught:
        patches(features("a", labelled("b", [-1, -1])))
    assert caught.value.exit_code == 2


def test_a_class_without_a_name():
    with pytest.raises(LabelError, match="class 2 and names 2 classes"):
        patches(features(labelled("a", [0, 2])))


def pair(train: list[FeatureFile], test: list[FeatureFile]) -> tuple[FeatureSource, ...]:
    return cohort.open_sources(FeatureSet(Path("A"), tuple(train)), FeatureSet(Path("B"), tuple(test)))


def test_training_and_test_folders_of_images_of_one_name():
    one = labelled("images", [0, 1], name=("x/1.jpg", "y/1.jpg"), attributes={"id": "1"})
    other = labelled("images", [1, 0], name=("x/1.jpg", "y/1.jpg"), attributes={"id": "2"})
    found = patches(pair([one], [other]))
    assert found.patients == 4
    assert sorted(zip(found.slide_id.tolist(), found.split.tolist(), strict=True)) == [
        ("test/images", "test"),
        ("test/images", "test"),
        ("train/images", "train"),
        ("train/images", "train"),
    ]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (labelled("a", [0, 1]), "'a' is in both --train and --test"),
        (labelled("a", [0, 1], attributes={"id": "other"}), "slide 'a' is in both --train and --test"),
        (labelled("b", [0, 1], names=("fat", "gland")), "classes of --test that --train does not have: 'gland'"),
        (feature_file("b", dim=5), "--train has 4 dimensions, --test 5"),
        (labelled("b", [0, 1], attributes={"encoder_sha256": "other"}), "come from different encoders"),
    ],
)
def test_training_and_test_folders_that_do_not_fit(test, message):
    with pytest.raises(LabelError, match=message) as caught:
        patches(pair([labelled("a", [0, 1])], [test]))
    assert caught.value.exit_code == 2


def test_several_errors_are_counted():
    audit = Audit()
    audit.error("one", "first", "do this")
    audit.error("two", "second")
    with pytest.raises(LabelError, match=r"first \(1 more in audit.json\)"):
        audit.stop_on_errors()
    assert audit.as_dict()["passed"] is False


def test_names_that_look_alike_are_warned_of_with_all_spellings():
    audit = Audit()
    names = ("a", "b", "c", "d")
    rows = table(
        dict(zip(names, ("Tumor", "tumor", "Stroma", "Stroma"), strict=True)),
        patients=dict(zip(names, ("P1", "p1", "q", "r"), strict=True)),
    )
    assert slides(features(*names), rows, audit).classes == ("Stroma", "Tumor", "tumor")
    said = [finding.message for finding in audit.findings if finding.code == "spelling"]
    assert len(said) == 2
    assert said[0].startswith(
        "classes that differ only in case or blanks: 'Tumor' and 'tumor'; they count as different"
    )
    assert said[1].startswith("patients that differ only in case or blanks: 'P1' and 'p1'; ")
    audit = Audit()
    files = [labelled("a", [0, 1], names=("fat", "tumour ")), labelled("b", [0, 1], names=("fat", "tumour"))]
    assert patches(features(*files), audit=audit).classes == ("fat", "tumour", "tumour ")
    (message,) = (finding.message for finding in audit.findings if finding.code == "spelling")
    assert "'tumour' and 'tumour '" in message
    audit = Audit()
    slides(features("a", "b"), table({"a": "x", "b": "y"}), audit)
    assert not [finding for finding in audit.findings if finding.code == "spelling"]


def test_classes_of_one_side_that_look_like_those_of_the_other_are_named():
    train, test = [labelled("a", [0, 1])], [labelled("b", [0, 1], names=("fat", "Tumour"))]
    with pytest.raises(LabelError, match="classes of --test that --train does not have") as caught:
        patches(pair(train, test))
    assert "'Tumour' and 'tumour' differ only in case or blanks" in caught.value.hint
