"""Inputs of ``sgcl evaluate``: features and the table of labels, the rows to evaluate, and their folds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import open_features, stored_bytes
from sgcl_cli.artefacts.labels import Columns, Labels, read_labels
from sgcl_cli.config import EvaluateConfig, flag, relative
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.data import cohort as cohorts
from sgcl_cli.probe.data import split_files, splits
from sgcl_cli.probe.data.association import audit_sites
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort, FeatureSource
from sgcl_cli.probe.data.split_files import SplitFile
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.report import evaluation
from sgcl_cli.stages.evaluate.consistency import audit_cohort

MOST_BINS = 4
MEASURED_IN_A_FOLD = 8
MAPPED_SHARE = 0.5


@dataclass(frozen=True)
class Inputs:
    """Opened inputs, with the level and, as far as the table determines it, the task.

    :ivar sources: folders of features: one, or training and test.
    :ivar labels: the table of labels; None without one.
    :ivar level: slide or patch.
    :ivar task: the kind of target; ``auto`` where the values of the target decide.
    :ivar task_from: the reason for ``task``; empty where it is ``auto``.
    :ivar split_file: the division of --splits; None without one.
    :ivar mapped: whether features are larger than half of the memory and therefore stay on disk.
    :ivar inferred: what was inferred, as (what, value, reason).
    :ivar ids: identities of the inputs, by name.
    """

    sources: tuple[FeatureSource, ...]
    labels: Labels | None
    level: cohorts.Level
    task: str
    task_from: str
    split_file: SplitFile | None
    mapped: bool
    inferred: list[tuple[str, str, str]]
    ids: dict[str, str]


def open_inputs(config: EvaluateConfig, audit: Audit) -> Inputs:
    """Open the features, the table of labels and the division, and determine the level.

    :raises LabelError: there are no labels of the requested level, or a table is malformed.
    :raises ConfigError: regression or survival at patch level.
    """
    folders = [folder for folder in (config.features or config.train, config.test) if folder is not None]
    mapped = MAPPED_SHARE * memory_bytes() < sum(map(stored_bytes, folders))
    first, second = ([open_features(folder, mapped=mapped) for folder in folders] + [None])[:2]
    assert first is not None
    sources = cohorts.open_sources(first, second)
    ids = {"features": first.id} if second is None else {"train": first.id, "test": second.id}
    columns, task, task_from = _columns(config)
    has_target = len(columns.needed) > 1
    if config.level == "slide" and not has_target:
        raise LabelError(
            f"slide level needs a table with the column '{config.target}'"
            + (f"; {config.labels} has none" if config.labels else ""),
            "give --labels labels.csv with slide_id and that column, or another --target",
        )
    level: cohorts.Level = "slide" if config.level == "slide" or (config.level == "auto" and has_target) else "patch"
    if level == "patch":
        if task in ("regression", "survival"):
            raise ConfigError(f"patches have classes: there is no {task} at patch level", "give --level slide")
        columns = Columns(columns.slide_id, None)
    labels = None
    if config.labels is not None:
        labels = read_labels(config.labels, columns, cohorts.known_ids(sources))
        ids["labels"] = _table_id(labels)
        for warning in labels.warnings:
            audit.warn("duplicates", warning)
        if labels.without_patient:
            lone = labels.without_patient
            audit.warn(
                "missing_patients",
                f"{labels.path.name}: {len(lone)} slides have no patient_id, each counts as a patient of its own, "
                f"first '{lone[0]}'",
            )
    split_file = None
    if config.splits is not None:
        split_file = split_files.read(config.splits, cohorts.known_ids(sources))
        ids["splits"] = _splits_id(Path(config.splits))
    if config.level != "auto":
        why = "--level"
    elif has_target:
        named = f"'{columns.target}'" if columns.target else f"s '{columns.time}' and '{columns.event}'"
        why = f"the table has the column{' ' if columns.target else ''}{named}"
    else:
        why = "no table has labels of slides, so the labels of the patches are the target"
    return Inputs(sources, labels, level, task, task_from, split_file, mapped, [("Level", level, why)], ids)


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _columns(config: EvaluateConfig) -> tuple[Columns, str, str]:
    """The columns to read, the task as far as they determine it, and the reason.

    The task is survival if the settings say so, or if the table has the columns time and event and no target.
    """
    slide_id, target = config.id.strip().lower(), config.target.strip().lower()
    time, event = ((name or plain).strip().lower() for name, plain in ((config.time, "time"), (config.event, "event")))
    asked = config.time is not None or config.task == "survival"
    header: set[str] = set()
    if config.labels is not None:
        header = set(next(iter(store.read_table(config.labels, [])), {}))
    missing = [name for name, plain in ((slide_id, ""), (target, "label")) if header and name not in header | {plain}]
    if missing:
        option = "--id" if missing[0] == slide_id else "--target"
        raise LabelError(
            f"the table {config.labels} has no column '{missing[0]}' (found: {', '.join(sorted(header))})",
            f"give the name of the column with {option}",
        )
    if asked:
        why = f"--time {time} and --event {event}" if config.time is not None else "--task"
        return Columns(slide_id, None, time, event), "survival", why
    if target in header:
        return Columns(slide_id, target), config.task, ""
    if config.task == "auto" and {time, event} <= header:
        why = f"the table has the columns '{time}' and '{event}', and no '{target}'"
        return Columns(slide_id, None, time, event), "survival", why
    return Columns(slide_id, None), config.task, ""


def _table_id(labels: Labels) -> str:
    """The identity of the table: a hash of its rows, independent of their order."""
    rows = [
        json.dumps([row.slide_id, row.label, row.patient_id, row.site, row.split, row.time, row.event])
        for row in labels.rows
    ]
    return store.artefact_id("labels", {}, rows)


def _splits_id(path: Path) -> str:
    files = sorted(path.glob("splits_*.csv")) if path.is_dir() else [path]
    return store.artefact_id("splits", {}, [store.file_sha256(file) for file in files])


def cohort_of(config: EvaluateConfig, inputs: Inputs, audit: Audit) -> Cohort:
    """The rows to evaluate, slides or patches; see ``probe.data.cohort``.

    :raises LabelError: see there.
    :raises ArtefactError: the features of all patches are equal.
    """
    if inputs.level == "slide":
        assert inputs.labels is not None
        cohort = cohorts.by_slide(
            inputs.sources, inputs.labels, task=inputs.task, allow_missing=config.allow_missing, audit=audit
        )
    else:
        cohort = cohorts.by_patch(inputs.sources, inputs.labels, task=inputs.task, audit=audit)
    if cohort.site is not None and cohort.classes:
        audit_sites(cohort.label, cohort.site, cohort.patient_id, audit)
    audit_cohort(cohort, audit)
    return cohort


def plan_of(config: EvaluateConfig, inputs: Inputs, cohort: Cohort, audit: Audit) -> Plan:
    """Folds by patient or by site, or the division given by --splits, the table, or --train and --test.

    :raises LabelError: see ``probe.data.splits`` and ``probe.data.split_files``.
    """
    folded = inputs.split_file is None and cohort.split is None and config.cv == "patient"
    folds = folds_of(config, cohort)[0]
    strata, names = strata_of(cohort, folds if folded else 0)
    rows = (cohort.slide_id, strata, cohort.patient_id)
    arguments: dict[str, Any] = {"classes": names, "validation": config.validation, "seed": config.seed}
    if inputs.split_file is not None:
        plan = split_files.plan_from(inputs.split_file, *rows, **arguments)
    elif config.cv == "site":
        if cohort.split is not None:
            raise LabelError("--cv site, and the table has a split column", "leave one of them out")
        sites = np.full(len(cohort), "") if cohort.site is None else cohort.site
        plan = splits.by_site(*rows, sites, **arguments)
    elif cohort.split is None:
        plan = splits.cross_validation(*rows, folds=folds, **arguments)
    else:
        plan = splits.given(*rows, cohort.split, **arguments)
    for warning in plan.warnings:
        audit.warn("splits", warning)
    return plan


def folds_of(config: EvaluateConfig, cohort: Cohort) -> tuple[int, str]:
    """The number of folds by patient, and the reason if it is not 5: --folds, or too few patients for intervals."""
    if config.folds is not None:
        return config.folds, "--folds"
    if cohort.value is not None:
        count, fewest, what = cohort.patients, MEASURED_IN_A_FOLD, "patients"
    else:
        labels = cohort.label if cohort.event is None else cohort.event
        counts = splits.patients_per_class(labels, cohort.patient_id)
        rarest = min(counts, key=lambda c: (counts[c], c))
        kind = f"of class '{cohort.classes[rarest]}'" if cohort.event is None else ("censored", "with an event")[rarest]
        count, fewest, what = counts[rarest], splits.FEWEST_IN_A_FOLD, f"patients {kind}"
    folds = splits.folds_for(count, fewest)
    few = f"fewer than {splits.FOLDS}: {count} {what} are too few for {fewest} of them in each of {splits.FOLDS} folds"
    return folds, few if folds < splits.FOLDS else ""


def strata_of(cohort: Cohort, folds: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Strata of a division and their names: classes, events, or quantiles of the values of a regression.

    There are as many quantiles (at most 4) as leave two patients of each for every fold, and one if ``folds`` is 0.

    :returns: int64 (n,), the stratum of each row, and the names of the strata.
    """
    if cohort.event is not None:
        return cohort.event, ("censored", "event")
    if cohort.value is None:
        return cohort.label, cohort.classes
    bins = max(1, min(MOST_BINS, cohort.patients // (2 * folds))) if folds else 1
    found = splits.bins_of(cohort.value, cohort.patient_id, bins)
    return found, tuple(f"quantile {number + 1} of {bins}" for number in range(bins))


def describe(config: EvaluateConfig, inputs: Inputs, cohort: Cohort, plan: Plan) -> list[tuple[str, str, str]]:
    """What was inferred, as (what, value, reason)."""
    return [
        *inputs.inferred,
        ("Task", cohort.task, inputs.task_from or cohort.task_from),
        *_target(cohort),
        ("Rows", _count_of(cohort), ""),
        ("Patients", str(cohort.patients), cohort.patients_from),
        ("Division", *_division(config, inputs, cohort, plan)),
        *_protocol(config),
        *([("Features", "mapped from disk", "larger than half of the memory")] if inputs.mapped else []),
    ]


def _protocol(config: EvaluateConfig) -> list[tuple[str, str, str]]:
    """The preset, with those of its settings that no flag or TOML file has changed."""
    if config.protocol is None:
        return []
    preset = config.recipes[config.protocol]
    kept = [f"{flag(name)} {value}" for name, value in preset.items() if getattr(config, name) == value]
    return [("Protocol", config.protocol, " ".join(kept))]


def _target(cohort: Cohort) -> list[tuple[str, str, str]]:
    if cohort.event is not None:
        return [("Events", f"{int(cohort.event.sum())} of {len(cohort)}", "the others are censored")]
    if cohort.value is not None:
        return [("Values", f"{cohort.value.min():g} to {cohort.value.max():g}", "")]
    positive = f"AUROC is that of '{cohort.classes[1]}'" if cohort.binary else "AUROC is the mean of one-versus-rest"
    return [("Classes", ", ".join(cohort.classes), positive)]


def _division(config: EvaluateConfig, inputs: Inputs, cohort: Cohort, plan: Plan) -> tuple[str, str]:
    folds = len(plan.folds)
    if inputs.split_file is not None:
        kind = "repetitions that share patients" if plan.repeats else "folds"
        return (f"{folds} {kind}" if folds > 1 else "one division into training and test"), (
            f"{relative(str(config.splits))}: {inputs.split_file.kind}"
        )
    if config.cv == "site":
        return f"{folds} sites, each left out once", "--cv site"
    if cohort.split is not None:
        why = "--train and --test" if config.train is not None else "the table has a split column"
        return "one division into training and test", why
    by = {"regression": "quantile", "survival": "event"}.get(cohort.task, "class")
    why = folds_of(config, cohort)[1] if folds != splits.FOLDS else ""
    return f"{folds} folds by patient, stratified by {by}", "; ".join(filter(None, ("no split column", why)))


def _count_of(cohort: Cohort) -> str:
    slides = evaluation.counted(cohort.slides, cohort.unit)
    return slides if cohort.level == "slide" else f"{evaluation.counted(len(cohort), 'patch', 'patches')} of {slides}"
