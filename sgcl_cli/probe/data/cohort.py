"""Cohorts: features joined with labels, one row per slide or per patch, and a ledger of what is left out.

Rows are sorted by slide id, patches by their row in the file, so the order of tables and folders does not matter.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import reading
from sgcl_cli.artefacts.features import FeatureFile, FeatureSet
from sgcl_cli.artefacts.labels import LabelRow, Labels
from sgcl_cli.artefacts.spelling import in_quotes, listed, lookalikes
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.duplicates import audit_duplicates
from sgcl_cli.probe.data.patients import audit_patients
from sgcl_cli.probe.data.spelling import audit_spelling

Level = Literal["slide", "patch"]
Task = Literal["binary", "multiclass", "regression", "survival"]
MOST_INTEGER_CLASSES = 10
MOST_MISSING = 0.05
_NAMED = 5
_LARGEST_TARGET = 1e100  # its square, times the number of rows, is finite


@dataclass(frozen=True)
class FeatureSource:
    """A folder of features and its side: "train", "test", or "" if it is to be divided into folds."""

    features: FeatureSet
    side: str = ""


@dataclass(frozen=True)
class Cohort:
    """Rows to evaluate.

    :ivar files: the feature files in use, in the order of the rows; at slide level one file per row.
    :ivar slide_id, patient_id: str (n,).
    :ivar label: int64 (n,), index into ``classes``; 0 in regression and survival, which have no classes.
    :ivar split: str (n,), train, val or test; None without given splits.
    :ivar row: int64 (n,), the patch within its file; None at slide level.
    :ivar patients_from: the source of the patients, for the report.
    :ivar patients_known: whether the user gave all patients.
    :ivar task_from: the reason for the task, for the report.
    :ivar site: str (n,), "" if unknown; None if no row has a site.
    :ivar value: float64 (n,), target of a regression.
    :ivar time, event: float64 and int64 (n,), targets of survival.
    """

    level: Level
    classes: tuple[str, ...]
    files: tuple[FeatureFile, ...]
    slide_id: NDArray[np.str_]
    patient_id: NDArray[np.str_]
    label: NDArray[np.int64]
    split: NDArray[np.str_] | None
    row: NDArray[np.int64] | None
    patients_from: str
    patients_known: bool
    task: Task
    task_from: str
    site: NDArray[np.str_] | None = None
    value: NDArray[np.float64] | None = None
    time: NDArray[np.float64] | None = None
    event: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def binary(self) -> bool:
        """Whether there are two classes."""
        return self.task == "binary"

    @property
    def patients(self) -> int:
        """The number of patients."""
        return len(np.unique(self.patient_id))

    @property
    def unit(self) -> str:
        """The word for one feature file: slide, or folder (of images)."""
        return "folder" if all(file.name is not None for file in self.files) else "slide"

    @property
    def slides(self) -> int:
        """The number of slides (or folders of images)."""
        return len(np.unique(self.slide_id))


def open_sources(train_or_all: FeatureSet, test: FeatureSet | None) -> tuple[FeatureSource, ...]:
    """One folder to be divided, or a training and a test folder of the same encoder.

    :raises LabelError: the two share a file, or come from different encoders.
    """
    if test is None:
        return (FeatureSource(train_or_all),)
    first, second = train_or_all.files[0], test.files[0]
    if train_or_all.dim != test.dim:
        raise LabelError(
            f"--train has {train_or_all.dim} dimensions, --test {test.dim}", "embed both with the same encoder"
        )
    weights = [(file.attributes or {}).get("encoder_sha256") for file in (first, second)]
    if weights[0] != weights[1]:
        raise LabelError("--train and --test come from different encoders", "embed both with the same encoder")
    shared = {file.id for file in train_or_all.files} & {file.id for file in test.files}
    if shared:
        name = next(file.slide_id for file in test.files if file.id in shared)
        raise LabelError(f"'{name}' is in both --train and --test", "fit and report on different slides")
    return FeatureSource(train_or_all, "train"), FeatureSource(test, "test")


def settle_task(labels: Sequence[str], asked: str) -> tuple[Task, str]:
    """The task and its reason: fractional numbers, or more than 10 different numbers, are measurements; else classes.

    :param asked: auto, or a task.
    :raises LabelError: measurements with decimal commas, or mixed with text.
    """
    if asked != "auto":
        return cast(Task, asked), "set by --task"
    names = set(labels)
    numbers = [_number(name) for name in names]
    if all(number is not None for number in numbers):
        whole = all(number == int(number) for number in numbers if number is not None)
        if not whole or len(names) > MOST_INTEGER_CLASSES:
            return "regression", f"the target has {len(names)} different numbers{'' if whole else ', not all whole'}"
    else:
        _refuse_odd_measurements(sorted(names))
    return ("binary" if len(names) == 2 else "multiclass"), f"{len(names)} classes"


def _refuse_odd_measurements(names: Sequence[str]) -> None:
    """Refuse many numbers mixed with text: measurements with a typing error, not as many classes."""
    odd = [name for name in names if _number(name) is None]
    commas = [name for name in odd if _number(name.replace(",", ".", 1)) is not None]
    if len(commas) == len(odd):
        raise LabelError(f"the target has decimal commas, first '{commas[0]}'", "write numbers with a point")
    if len(names) - len(odd) > MOST_INTEGER_CLASSES:
        raise LabelError(
            f"the target has {len(names) - len(odd)} different numbers, and '{odd[0]}'",
            "correct or remove that row, or use --task multiclass",
        )


def class_names(labels: Iterable[str], task: str) -> tuple[str, ...]:
    """The sorted classes: whole numbers by value, others by name.

    :param task: auto, binary or multiclass; auto treats whole numbers with at most 10 values as classes.
    :raises LabelError: one class only, or numbers that look like measurements.
    :raises ConfigError: ``--task binary`` with another number of classes.
    """
    names = sorted(set(labels))
    numbers = [_number(name) for name in names]
    known = [number for number in numbers if number is not None]
    if len(known) == len(names):
        whole = all(number == int(number) for number in known)
        if task == "auto" and (not whole or len(names) > MOST_INTEGER_CLASSES):
            raise LabelError(
                f"the target has {len(names)} different numbers, first {names[0]}: measurements, not classes",
                "name the classes in words, or use --task multiclass",
            )
        names = [name for _, name in sorted(zip(known, names, strict=True))]
    if len(names) == 1:
        raise LabelError(f"there is one class only: '{names[0]}'", "an evaluation needs rows of at least two classes")
    if task == "binary" and len(names) != 2:
        raise ConfigError(f"--task is binary and there are {len(names)} classes", "leave --task out, or merge classes")
    return tuple(names)


def by_slide(
    sources: Sequence[FeatureSource], labels: Labels, *, task: str, allow_missing: bool, audit: Audit
) -> Cohort:
    """One row per labelled slide that has features and at least one patch.

    :raises LabelError: nothing matches, too many slides lack features, one class only, or a slide on two sides.
    """
    files, sides = _files_by_slide(sources, audit)
    table = labels.by_slide()
    embedded = {name for name, file in files.items() if len(file)}
    empty = sorted(set(files) - embedded)
    matched = sorted(embedded & set(table))
    missing = sorted(set(table) - embedded)
    unlabelled = sorted(embedded - set(table))
    audit.ledger = {
        "labelled": len(table),
        "feature_files": len(files),
        "matched": len(matched),
        "labelled_without_features": missing,
        "features_without_labels": unlabelled,
        "features_without_patches": empty,
    }
    if not matched:
        zeros = {name.lstrip("0") for name in files} & set(table)
        audit.error(
            "no_match",
            f"none of the {len(files)} feature files has a label: the table names {listed(sorted(table), _NAMED)}, "
            f"the files are {listed(sorted(files), _NAMED)}",
            "the table has lost leading zeros, as spreadsheets do: save the column as text"
            if zeros
            else "slide_id in the table is the feature file's name without its suffix",
        )
    if missing:
        share = len(missing) / len(table)
        alike = difflib.get_close_matches(missing[0], unlabelled, n=1, cutoff=0.8)
        what = f"{len(missing)} of {len(table)} labelled slides have no features: {listed(missing, _NAMED)}"
        what += f"; is '{missing[0]}' spelled '{alike[0]}' in the features?" if alike else ""
        if matched and share > MOST_MISSING and not allow_missing:
            audit.error("missing_features", what, "embed them, remove them from the table, or use --allow-missing")
        else:
            audit.warn("missing_features", what)
    if unlabelled:
        audit.warn(
            "missing_labels", f"{len(unlabelled)} slides with features have no label: {listed(unlabelled, _NAMED)}"
        )
    audit_duplicates([(name, table[name].patient_id, files[name]) for name in matched], audit)
    audit_patients(matched, labels.has_patients, audit)
    rows = [table[name] for name in matched]
    _audit_spelling([row.label or "" for row in rows], rows, audit)
    audit.stop_on_errors()
    given = any(row.split for row in rows)
    splits = [sides[row.slide_id] if sides else row.split or "" for row in rows]
    cohort = Cohort(
        level="slide",
        files=tuple(files[name] for name in matched),
        slide_id=np.array(matched),
        patient_id=np.array([row.patient_id for row in rows]),
        split=np.array(splits) if sides or given else None,
        row=None,
        patients_from="the column patient_id" if labels.has_patients else "no column patient_id: a patient is a slide",
        patients_known=labels.has_patients,
        site=np.array([row.site or "" for row in rows]) if any(row.site for row in rows) else None,
        **_truth(rows, task),
    )
    _audit_transductive(cohort, audit)
    _audit_probed(cohort, audit)
    return cohort


def _truth(rows: Sequence[LabelRow], asked: str) -> dict[str, Any]:
    """The target fields of a cohort."""
    none = np.zeros(len(rows), dtype=np.int64)
    if asked == "survival":
        time = np.array([np.nan if row.time is None else row.time for row in rows])
        event = np.array([row.event or 0 for row in rows], dtype=np.int64)
        if not event.any():
            raise LabelError("no slide has an event", "survival needs rows whose event is 1")
        return {"task": "survival", "task_from": "", "classes": (), "label": none, "time": time, "event": event}
    labels = [row.label or "" for row in rows]
    task, why = settle_task(labels, asked)
    if task == "regression":
        values = np.array([_measured(row) for row in rows])
        if np.ptp(values) == 0:
            raise LabelError(f"every target is {values[0]:g}", "a regression needs different values")
        return {"task": task, "task_from": why, "classes": (), "label": none, "value": values}
    classes = class_names(labels, asked)
    task = "binary" if len(classes) == 2 else "multiclass"
    number = {name: index for index, name in enumerate(classes)}
    label = np.array([number[text] for text in labels], dtype=np.int64)
    return {"task": task, "task_from": why, "classes": classes, "label": label}


def _measured(row: LabelRow) -> float:
    number = _number(row.label or "")
    if number is not None and abs(number) > _LARGEST_TARGET:
        raise LabelError(
            f"the target of slide '{row.slide_id}' is '{row.label}', larger than {_LARGEST_TARGET:g}",
            "rescale the target",
        )
    if number is None:
        raise LabelError(
            f"the target of slide '{row.slide_id}' is '{row.label}', not a number", "use --task multiclass for classes"
        )
    return number


def by_patch(sources: Sequence[FeatureSource], labels: Labels | None, *, task: str, audit: Audit) -> Cohort:
    """One row per labelled patch; patients and splits from the table, if there is one.

    :raises LabelError: no labelled patches, one class only, a slide on two sides, or classes of --test not in --train.
    """
    files, sides = _files_by_slide(sources, audit)
    table = labels.by_slide() if labels is not None else {}
    named = {name: _patch_labels(file) for name, file in files.items()}
    used = sorted(name for name, texts in named.items() if len(texts) and (texts != "").any())
    bare = sorted(set(files) - set(used))
    audit.ledger = {
        "feature_files": len(files),
        "patches": int(sum(len(file) for file in files.values())),
        "labelled_patches": int(sum((texts != "").sum() for texts in named.values())),
        "slides_without_labelled_patches": bare,
    }
    if not used:
        audit.error(
            "no_labels",
            f"no patch in {listed(sorted(files), _NAMED)} has a label, and no table gives slides a label",
            "give --labels labels.csv with a column slide_id and the target, or features of labelled patches",
        )
        audit.stop_on_errors()
    if bare:
        audit.warn("missing_labels", f"{len(bare)} slides have no labelled patch: {listed(bare, _NAMED)}")
    unknown = [name for name in used if name not in table] if labels is not None else []
    if unknown:
        audit.warn(
            "missing_patients",
            f"{len(unknown)} slides are not in the table, each counts as a separate patient: {listed(unknown, _NAMED)}",
        )
    rows = {name: np.flatnonzero(named[name] != "") for name in used}
    patients, from_where = _patients(used, files, table, labels is not None and labels.has_patients, audit)
    texts = np.concatenate([named[name][rows[name]] for name in used])
    sides_of_patches = _patch_splits(used, rows, sides, table)
    if sides_of_patches is not None and sides:
        _audit_class_names(texts, sides_of_patches, audit)
    audit_duplicates([(name, _only(patients[name]), files[name]) for name in used], audit)
    slides = [name for name in used if files[name].name is None]
    if slides:
        audit_patients(slides, labels is not None and labels.has_patients, audit)
    _audit_spelling(texts.tolist(), [table[name] for name in used if name in table], audit)
    audit.stop_on_errors()
    classes = class_names(texts.tolist(), task)
    number = {name: index for index, name in enumerate(classes)}
    cohort = Cohort(
        level="patch",
        classes=classes,
        files=tuple(files[name] for name in used),
        slide_id=np.repeat(np.array(used), [len(rows[name]) for name in used]),
        patient_id=np.concatenate([patients[name][rows[name]] for name in used]),
        label=np.array([number[text] for text in texts.tolist()], dtype=np.int64),
        split=sides_of_patches,
        row=np.concatenate([rows[name] for name in used]),
        patients_from=from_where,
        patients_known="no patients" not in from_where,
        task="binary" if len(classes) == 2 else "multiclass",
        task_from="set by --task" if task != "auto" else f"{len(classes)} classes",
        site=_patch_sites(used, rows, table),
    )
    _audit_transductive(cohort, audit)
    _audit_probed(cohort, audit)
    return cohort


def patch_features(cohort: Cohort) -> NDArray[np.floating]:
    """The features of a patch-level cohort's rows, (n, D)."""
    assert cohort.row is not None
    slides = dict.fromkeys(cohort.slide_id.tolist())
    return np.concatenate(
        [file.features[cohort.row[cohort.slide_id == slide]] for file, slide in zip(cohort.files, slides, strict=True)]
    )


def bag_rows(cohort: Cohort) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """All patches of a slide-level cohort, (N, D), and the offsets of its slides, (n + 1,).

    If files are memory-mapped, the rows are too: in an unnamed temporary file.
    """
    offsets = np.concatenate([[0], np.cumsum([len(file) for file in cohort.files])]).astype(np.int64)
    first = cohort.files[0].features
    dtype = np.result_type(*{file.features.dtype for file in cohort.files})
    shape = (int(offsets[-1]), first.shape[1])
    if any(isinstance(file.features, np.memmap) for file in cohort.files):
        with tempfile.TemporaryFile() as unnamed:
            rows: NDArray[np.floating] = np.memmap(unnamed, dtype, "w+", 0, shape)
    else:
        rows = np.empty(shape, dtype)
    for file, start, end in zip(cohort.files, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        rows[start:end] = file.features
    return rows, offsets


def known_ids(sources: Sequence[FeatureSource]) -> list[str]:
    """The slide ids of the rows, which a table or a split file may name."""
    return [_name_of(source, file) for source in sources for file in source.features.files]


def _name_of(source: FeatureSource, file: FeatureFile) -> str:
    """Slide id of a file; that of an image folder is prefixed with its side, since both sides may have the same name."""
    if source.side and file.name is not None and file.slide_id != source.side:
        return f"{source.side}/{file.slide_id}"
    return file.slide_id


def _files_by_slide(sources: Sequence[FeatureSource], audit: Audit) -> tuple[dict[str, FeatureFile], dict[str, str]]:
    """Files by slide id (see ``_name_of``), and the side of each if there are two sides."""
    files: dict[str, FeatureFile] = {}
    sides: dict[str, str] = {}
    for source in sources:
        for file in source.features.files:
            name = _name_of(source, file)
            if name in files:
                where = (
                    "both --train and --test" if source.side and sides[name] != source.side else "the features twice"
                )
                audit.error("overlap", f"slide '{name}' is in {where}", "fit and report on different slides")
            files[name] = file
            if source.side:
                sides[name] = source.side
    return files, sides


def _patch_labels(file: FeatureFile) -> NDArray[np.str_]:
    """The class name of each patch, "" if unknown; empty without labels."""
    if file.label is None:
        return np.array([], dtype=np.str_)
    highest = int(file.label.max(initial=-1))
    names = file.label_names or tuple(str(number) for number in range(highest + 1))
    if highest >= len(names):
        raise LabelError(
            f"{file.path.name} has patches of class {highest} and names {len(names)} classes", "make the features again"
        )
    return np.array([*names, ""])[np.where(file.label < 0, len(names), file.label)]


def _patients(
    used: Sequence[str],
    files: dict[str, FeatureFile],
    table: dict[str, LabelRow],
    in_table: bool,
    audit: Audit,
) -> tuple[dict[str, NDArray[np.str_]], str]:
    """The patient of each patch, and the source of the patients."""
    patients: dict[str, NDArray[np.str_]] = {}
    where: dict[str, None] = {}
    for name in used:
        file = files[name]
        if file.group is not None:
            single = [f"{name}/{index}" for index in range(len(file))]
            patients[name] = np.array([group or own for group, own in zip(file.group, single, strict=True)])
            where["the images' groups"] = None
        elif name in table and in_table:
            patients[name] = np.full(len(file), table[name].patient_id)
            where["the column patient_id"] = None
        elif file.name is not None:
            patients[name] = np.array([f"{name}/{image}" for image in file.name])
            where["no patients are known: every image counts as one"] = None
        else:
            patients[name] = np.full(len(file), name)
            where["no patients are given: a patient is a slide"] = None
    if "no patients are known: every image counts as one" in where:
        audit.warn(
            "no_patients",
            "no patients are known for the images: each counts as independent, so images of one patient may be on both sides, "
            "and intervals are too narrow if patients have several images",
        )
    return patients, "; ".join(where)


def _only(patients: NDArray[np.str_]) -> str:
    """The one patient of all rows, "" if there are several."""
    return str(patients[0]) if (patients == patients[0]).all() else ""


def _patch_splits(
    used: Sequence[str], rows: dict[str, NDArray[np.int64]], sides: dict[str, str], table: dict[str, LabelRow]
) -> NDArray[np.str_] | None:
    if sides:
        of_slide = {name: sides[name] for name in used}
    elif any(table[name].split for name in used if name in table):
        of_slide = {name: (table[name].split or "") if name in table else "" for name in used}
    else:
        return None
    return np.concatenate([np.full(len(rows[name]), of_slide[name]) for name in used])


def _patch_sites(
    used: Sequence[str], rows: dict[str, NDArray[np.int64]], table: dict[str, LabelRow]
) -> NDArray[np.str_] | None:
    sites = {name: (table[name].site or "") if name in table else "" for name in used}
    if not any(sites.values()):
        return None
    return np.concatenate([np.full(len(rows[name]), sites[name]) for name in used])


def _audit_spelling(classes: Iterable[str], rows: Sequence[LabelRow], audit: Audit) -> None:
    audit_spelling("classes", classes, audit)
    audit_spelling("patients", (row.patient_id for row in rows), audit)
    audit_spelling("sites", (row.site or "" for row in rows), audit)


def _audit_class_names(texts: NDArray[np.str_], split: NDArray[np.str_], audit: Audit) -> None:
    train, test = (set(texts[split == side].tolist()) for side in ("train", "test"))
    if test - train:
        audit.error(
            "classes",
            f"classes of --test that --train does not have: {listed(sorted(test - train), _NAMED)}; "
            f"--train has {listed(sorted(train), _NAMED)}",
            "class names must be the same on both sides"
            + "".join(f"; {in_quotes(group)} differ only in case or blanks" for group in lookalikes(train | test)),
        )
    if train - test:
        audit.warn("classes", f"classes of --train that --test does not have: {listed(sorted(train - test), _NAMED)}")


def _audit_transductive(cohort: Cohort, audit: Audit) -> None:
    """Warn about slides (and their patients) on which the encoder was pretrained: scores on them are transductive."""
    seen = []
    for file in cohort.files:
        attributes = file.attributes or {}
        trained_on = reading.texts_in(attributes, "pretrain_slides", file.path)
        if attributes.get("source_identity") in trained_on:
            seen.append(file.slide_id)
    audit.ledger["seen_in_pretraining"] = sorted(seen)
    if seen:
        patients = np.unique(cohort.patient_id[np.isin(cohort.slide_id, seen)])
        audit.ledger["patients_seen_in_pretraining"] = patients.tolist()
        audit.warn(
            "transductive",
            f"transductive: the encoder was pretrained, without labels, on {len(seen)} of these "
            f"{len(cohort.files)} slides, of {len(patients)} of {cohort.patients} patients: {listed(sorted(seen), _NAMED)}; "
            "scores on slides that it has not seen may be lower",
        )


def _audit_probed(cohort: Cohort, audit: Audit) -> None:
    """Warn about slides and image folders of the probe that chose best.pt: scores on them are optimistic."""
    used = []
    for file in cohort.files:
        attributes = file.attributes or {}
        asked = reading.texts_in(attributes, "probe_slides", file.path)
        if attributes.get("source_identity") in asked or attributes.get("patches_id") in asked:
            used.append(file.slide_id)
    if used:
        audit.ledger["used_by_a_probe"] = sorted(used)
        audit.warn(
            "probed",
            f"a probe used the labels of {len(used)} of these {len(cohort.files)} {cohort.unit}s while the encoder trained, and "
            f"best.pt was chosen by them: {listed(sorted(used), _NAMED)}",
        )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
