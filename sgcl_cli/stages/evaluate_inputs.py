"""What ``sgcl evaluate`` reads: features and the table, as rows to evaluate and the folds they are divided into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.labels import Labels, read_labels
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import LabelError
from sgcl_cli.probe import cohort as cohorts
from sgcl_cli.probe import splits
from sgcl_cli.probe.audit import Audit
from sgcl_cli.probe.cohort import Cohort, Source
from sgcl_cli.probe.splits import Plan
from sgcl_cli.report import evaluation


@dataclass(frozen=True)
class Inputs:
    """What is read: the sources, the table, whether it has the target, and the ids of all of it."""

    sources: tuple[Source, ...]
    labels: Labels | None
    level: cohorts.Level
    inferred: list[tuple[str, str, str]]
    ids: dict[str, str]


def open_inputs(config: EvaluateConfig, audit: Audit) -> Inputs:
    """Open features and the table, and settle the level.

    :raises LabelError: there are no labels for the level asked for.
    """
    first = open_features(config.features or config.train or "")
    second = open_features(config.test) if config.test is not None else None
    sources = cohorts.open_sources(first, second)
    ids = {"features": first.id} if second is None else {"train": first.id, "test": second.id}
    has_target = config.labels is not None and _has_column(config.labels, config.target)
    if config.level == "slide" and not has_target:
        raise LabelError(
            f"slide level needs a table with the column '{config.target}'"
            + (f"; {config.labels} has none" if config.labels else ""),
            "give --labels labels.csv with slide_id and that column, or another --target",
        )
    level: cohorts.Level = "slide" if config.level == "slide" or (config.level == "auto" and has_target) else "patch"
    labels = None
    if config.labels is not None:
        labels = read_labels(config.labels, config.target, need_target=level == "slide")
        ids["labels"] = _table_id(labels)
        for warning in labels.warnings:
            audit.warn("duplicates", warning)
    if config.level != "auto":
        why = "as asked"
    elif has_target:
        why = f"the table has the column '{config.target}'"
    else:
        why = "no table gives slides a label, so the patches' own labels are the target"
    return Inputs(sources, labels, level, [("Level", level, why)], ids)


def _has_column(path: str, column: str) -> bool:
    rows = store.read_table(path, ["slide_id"])
    return bool(rows) and column.strip().lower() in rows[0]


def _table_id(labels: Labels) -> str:
    """The table's identity: its content, whatever the order of its rows."""
    rows = [json.dumps([row.slide_id, row.label, row.patient_id, row.site, row.split]) for row in labels.rows]
    return store.artefact_id("labels", {}, rows)


def cohort_of(config: EvaluateConfig, inputs: Inputs, audit: Audit) -> Cohort:
    """The rows to evaluate, at the level that was settled; see ``probe.cohort``."""
    if inputs.level == "slide":
        assert inputs.labels is not None
        return cohorts.by_slide(
            inputs.sources, inputs.labels, task=config.task, allow_missing=config.allow_missing, audit=audit
        )
    return cohorts.by_patch(inputs.sources, inputs.labels, task=config.task, audit=audit)


def plan_of(config: EvaluateConfig, cohort: Cohort, audit: Audit) -> Plan:
    """The folds, or the division that the table or --train and --test give."""
    arguments: dict[str, Any] = {
        "classes": cohort.classes,
        "validation": config.validation,
        "seed": config.seed,
    }
    rows = (cohort.slide_id, cohort.label, cohort.patient_id)
    if cohort.split is None:
        plan = splits.cross_validation(*rows, folds=config.folds, **arguments)
    else:
        plan = splits.given(*rows, cohort.split, **arguments)
    for warning in plan.warnings:
        audit.warn("splits", warning)
    return plan


def describe(cohort: Cohort, plan: Plan, config: EvaluateConfig) -> list[tuple[str, str, str]]:
    """What was inferred, in words."""
    classes = ", ".join(cohort.classes)
    task = "binary" if cohort.binary else "multiclass"
    positive = f"AUROC is that of '{cohort.classes[1]}'" if cohort.binary else "AUROC is the mean of one-versus-rest"
    if cohort.split is None:
        division = f"{len(plan.folds)} folds by patient, stratified by class"
        why = "no split column"
    else:
        division = "one division into training and test"
        why = "--train and --test" if config.train is not None else "the table has a split column"
    return [
        ("Task", task, "as asked" if config.task != "auto" else f"{len(cohort.classes)} classes"),
        ("Classes", classes, positive),
        ("Rows", _count_of(cohort), ""),
        ("Patients", str(cohort.patients), cohort.patients_from),
        ("Division", division, why),
    ]


def _count_of(cohort: Cohort) -> str:
    slides = evaluation.counted(cohort.slides, cohort.unit)
    return slides if cohort.level == "slide" else f"{evaluation.counted(len(cohort), 'patch', 'patches')} of {slides}"
