"""What the report of an evaluation shows and says, from the content of metrics.json and a few plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgcl_cli.report import figures
from sgcl_cli.report.page import METRIC_NAMES, Page, Picture, Table

BASELINE = "majority"
_MOST_ROWS = 60


@dataclass(frozen=True)
class Part:
    """One part of a fold (training, validation or test): its patients and its rows per class."""

    fold: str
    name: str
    patients: int
    rows_per_class: Sequence[int]


@dataclass(frozen=True)
class SlideResult:
    """A reported slide: its true class and the probability that each model (by key) gives to it."""

    slide_id: str
    truth: str
    fold: str
    probability: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    :param result: the content of metrics.json.
    :param inferred: (what, value, why).
    :param curves: ROC curves by model key: folds of a binary task, classes of another.
    :param slides: empty at patch level.
    :param provenance: (name, value) of ids and versions.
    """

    result: Mapping[str, Any]
    inferred: Sequence[tuple[str, str, str]]
    warnings: Sequence[str]
    parts: Sequence[Part]
    curves: Mapping[str, Sequence[figures.Curve]]
    encoder: str
    command: str
    provenance: Sequence[tuple[str, str]]
    slides: Sequence[SlideResult] = field(default_factory=tuple)

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """The models' entries by key."""
        models: Mapping[str, Mapping[str, Any]] = self.result["models"]
        return models

    @property
    def fitted(self) -> list[tuple[str, str]]:
        """(key, name) of every model but the baseline."""
        return [(key, model["name"]) for key, model in self.models.items() if key != BASELINE]

    @property
    def binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.result["classes"]) == 2

    @property
    def no_interval(self) -> str:
        """Why there are no intervals, "" where there are."""
        reason: str = self.models[BASELINE]["metrics"]["accuracy"]["no_interval"]
        return reason


def pictures(evaluation: Evaluation) -> dict[str, Picture]:
    """ROC and confusion figures of every model but the baseline, by file name without suffix."""
    shown = {}
    for key, name in evaluation.fitted:
        if evaluation.curves[key]:
            how = "fold by fold" if evaluation.binary else "each class against the rest, all reported rows pooled"
            png = figures.roc(name, evaluation.curves[key], folds=evaluation.binary)
            shown[f"roc_{key}"] = Picture(f"ROC, {name}", f"ROC of {name}, {how}; numbers are AUROC.", png)
        counts = np.array(evaluation.models[key]["confusion"], dtype=np.int64)
        shown[f"confusion_{key}"] = Picture(
            f"Confusion, {name}",
            f"Confusion of {name}: rows are the truth, each row adds up to 100 %.",
            figures.confusion(name, counts, evaluation.result["classes"]),
        )
    return shown


def page(evaluation: Evaluation, shown: Sequence[Picture]) -> Page:
    """The report's content."""
    result, counts = evaluation.result, evaluation.result["counts"]
    tables = [_fold_table(evaluation)] if counts["folds"] > 1 else []
    if any("per_patient" in model for model in evaluation.models.values()):
        tables.append(_patient_table(evaluation))
    tables.append(_division_table(evaluation))
    if evaluation.slides:
        tables.append(_slide_table(evaluation))
    return Page(
        title=f"How well do the features tell {_enumerated(result['classes'])}?",
        facts=[
            f"{result['level']} level",
            *([counted(counts["rows"], "patch", "patches")] if result["level"] == "patch" else []),
            counted(counts["slides"], result["unit"]),
            counted(counts["patients"], "patient") if result["patients_known"] else "patients unknown",
            f"{counts['folds']} folds" if counts["folds"] > 1 else "training and test",
            f"encoder {evaluation.encoder}",
        ],
        inferred=evaluation.inferred,
        models={model["name"]: model["metrics"] for model in evaluation.models.values()},
        confidence=result["confidence"],
        folds=counts["folds"],
        warnings=evaluation.warnings,
        methods=_methods(evaluation),
        command=evaluation.command,
        provenance=evaluation.provenance,
        pictures=shown,
        tables=tables,
        data=result,
    )


def counted(number: int, singular: str, plural: str = "") -> str:
    """``1 slide``, ``2 slides``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _enumerated(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} classes apart"
    return ", ".join(names[:-1]) + (" from " if len(names) == 2 else " and ") + names[-1]


def _fold_table(evaluation: Evaluation) -> Table:
    rows: list[list[Any]] = []
    for key, name in evaluation.fitted:
        entries = evaluation.models[key]["metrics"]
        for fold in next(iter(entries.values()))["folds"]:
            rows.append([name, f"fold {fold}", *(entries[metric]["folds"][fold]["value"] for metric in METRIC_NAMES)])
        rows.append([name, "pooled", *(entries[metric]["pooled"]["value"] for metric in METRIC_NAMES)])
    note = "Pooled: all reported rows together. Models of different folds then share one ranking, so it may differ "
    note += "from the mean of the folds."
    return Table("Fold by fold", ["Model", "Rows", *METRIC_NAMES.values()], _named_once(rows), note)


def _named_once(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The same rows; a first cell that repeats the one above is blank."""
    above = ["", *(row[0] for row in rows[:-1])]
    return [["" if row[0] == former else row[0], *row[1:]] for row, former in zip(rows, above, strict=True)]


def _division_table(evaluation: Evaluation) -> Table:
    unit = "Slides" if evaluation.result["level"] == "slide" else "Patches"
    rows = [
        [part.fold, part.name, part.patients, sum(part.rows_per_class), *part.rows_per_class]
        for part in evaluation.parts
    ]
    return Table(
        "Who was fitted, who was reported",
        ["Fold", "Part", "Patients", unit, *evaluation.result["classes"]],
        rows,
        "No patient is in two parts of a fold, and none is reported twice.",
    )


def _patient_table(evaluation: Evaluation) -> Table:
    rows = [
        [name, row["patient_id"], row["rows"], *(row[metric] for metric in METRIC_NAMES)]
        for key, name in evaluation.fitted
        for row in evaluation.models[key].get("per_patient", [])
    ]
    note = "In place of intervals. A dash: the patient does not have rows of every class, so the metric is not defined."
    if len(rows) > _MOST_ROWS:
        note += " All patients are in metrics.json."
    columns = ["Model", "Patient", "Rows", *METRIC_NAMES.values()]
    return Table("Patient by patient", columns, _named_once(rows[:_MOST_ROWS]), note)


def _slide_table(evaluation: Evaluation) -> Table:
    keys = [key for key, _ in evaluation.fitted]
    doubtful = sorted(
        evaluation.slides, key=lambda slide: (sum(slide.probability[key] for key in keys), slide.slide_id)
    )
    rows = [
        [slide.slide_id, slide.truth, slide.fold, *(slide.probability[key] for key in keys)]
        for slide in doubtful[:_MOST_ROWS]
    ]
    note = "The probability that each model gives to the true class, out of fold; the most doubtful slides come first."
    if len(doubtful) > len(rows):
        note += f" {len(rows)} of {len(doubtful)} slides; all are in predictions.csv."
    return Table("Slide by slide", ["Slide", "Truth", "Fold", *(name for _, name in evaluation.fitted)], rows, note)


def _methods(evaluation: Evaluation) -> list[str]:
    protocol, counts = evaluation.result["protocol"], evaluation.result["counts"]
    slide_level = evaluation.result["level"] == "slide"
    if protocol["division"] == "folds":
        division = (
            f"Patients were divided into {counts['folds']} disjoint folds, stratified by class; each fold was reported "
            "by models that saw none of its patients."
        )
    else:
        division = "The division into training and test was given; no patient is on both sides."
    chosen = (
        "About "
        f"{100 * protocol['validation']:.0f} % of the training part, by patient, chose settings (the C of logistic regression"
        f"{', the epoch of the attention model' if slide_level else ''}), unless a validation split was given. The reported "
        "rows chose nothing: no setting, no epoch, no threshold; a prediction is the most probable class."
    )
    path = protocol["c_path"]
    logistic = (
        f"Logistic regression (scikit-learn) on {'the mean of a slide’s patches' if slide_level else 'patches'}, "
        f"standardised on the rows it was fitted on: C from {path[0]:g} to {path[-1]:g} by validation cross-entropy, then "
        "fitted again on training and validation rows."
    )
    other = _attention_method(protocol) if slide_level else _nearest_method(protocol)
    baseline = "“Class shares” is the baseline: it knows only how often each class occurs in training."
    return [f"{division} {chosen}", f"{logistic} {other} {baseline}", _interval_method(evaluation)]


def _attention_method(protocol: Mapping[str, Any]) -> str:
    return (
        "Gated attention (Ilse, Tomczak and Welling, 2018) on all patches of a slide, standardised on training patches: "
        f"width {protocol['mil_hidden']}, dropout {protocol['mil_dropout']:g}, AdamW at {protocol['mil_lr']:g}, at most "
        f"{protocol['mil_epochs']} epochs, stopped after {protocol['mil_patience']} without a lower validation loss, the "
        "best epoch kept. The attention of a slide, under attention/, comes from the model that did not train on it."
    )


def _nearest_method(protocol: Mapping[str, Any]) -> str:
    return (
        f"Weighted kNN: cosine similarity, k {protocol['knn_k']}, votes exp(similarity / "
        f"{protocol['knn_temperature']:g}), training and validation rows as reference."
    )


def _interval_method(evaluation: Evaluation) -> str:
    if evaluation.no_interval:
        return f"There are no intervals: {evaluation.no_interval}."
    return (
        f"Intervals ({100 * evaluation.result['confidence']:g} %): {evaluation.result['resamples']} resamples of patients "
        "within each fold, stratified by class; the metric is computed in each fold and averaged over the folds, as the "
        "headline is. Intervals are conditional on the fitted models: they do not say how much another training set "
        "would have changed the models."
    )
