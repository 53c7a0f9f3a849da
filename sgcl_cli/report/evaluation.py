"""The content of the report of an evaluation, made from metrics.json and plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgcl_cli.artefacts.evaluations import BASELINE, METRIC_NAMES
from sgcl_cli.report import figures, learning, survival_figures
from sgcl_cli.report.forest import ForestRow, forest
from sgcl_cli.report.numbers import with_interval
from sgcl_cli.report.page import Page, Picture, Section, Table, same_reason

_CALIBRATION = {"ece": "ECE", "brier": "Brier score"}
_SHARES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}
_KINDS = ("roc", "pr", "reliability", "confusion", "kaplan_meier", "measured")
_MOST_ROWS = 60
_CHANCE = {"auroc": 0.5, "c_index": 0.5, "spearman": 0.0, "r2": 0.0}
_JOINED = "\u2060"


@dataclass(frozen=True)
class FoldPart:
    """One part of a fold (training, validation or test): number of patients, rows per class."""

    fold: str
    name: str
    patients: int
    rows_per_class: Sequence[int]


@dataclass(frozen=True)
class SlideResult:
    """A reported slide: its true class, and the probability of that class by model key."""

    slide_id: str
    truth: str
    fold: str
    probability: dict[str, float]


@dataclass(frozen=True)
class FigureData:
    """The numbers behind the figures of one model; empty or None where the task has none.

    :ivar roc: folds of a binary task, classes of another.
    :ivar retrieval: precision against recall, of the positive class or of each.
    :ivar survival: groups of predicted risk, with the log-rank test's ``p``.
    :ivar measured: (truth, prediction) of numbers, (n,) each.
    """

    roc: Sequence[figures.Curve] = ()
    precision_recall: Sequence[figures.PrecisionRecall] = ()
    reliability: figures.Bins | None = None
    survival: Sequence[survival_figures.SurvivalCurve] = ()
    p: float | None = None
    measured: tuple[figures.Floats, figures.Floats] | None = None


@dataclass(frozen=True)
class Efficiency:
    """Label efficiency: values of a metric by model name and share of patients, one a repeat; the interval of their mean."""

    metric: str
    curves: Mapping[str, Mapping[float, Sequence[float]]]
    left_out: Sequence[str] = ()
    intervals: Mapping[str, Mapping[float, tuple[float | None, float | None]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    :ivar result: the content of metrics.json. A model's entry may have ``calibration`` (a headline for each of ece and
        brier) and ``thresholds`` (a list of {rule, values by fold, metrics}).
    :ivar inferred: (what, value, why).
    :ivar figure_data: by model key.
    :ivar slides: empty at patch level.
    :ivar ledger: (kind, count, names) of slides that were labelled, embedded, matched, left out.
    :ivar sections: further sections after those of the models: attention, a map of slides.
    :ivar provenance: (name, value) of ids and versions.
    """

    result: Mapping[str, Any]
    inferred: Sequence[tuple[str, str, str]]
    warnings: Sequence[str]
    parts: Sequence[FoldPart]
    figure_data: Mapping[str, FigureData]
    encoder: str
    command: str
    provenance: Sequence[tuple[str, str]]
    slides: Sequence[SlideResult] = field(default_factory=tuple)
    ledger: Sequence[tuple[str, int, str]] = ()
    efficiency: Efficiency | None = None
    sections: Sequence[Section] = ()

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
    def classes(self) -> Sequence[str]:
        """The classes; empty for other targets."""
        classes: Sequence[str] = self.result.get("classes") or ()
        return classes

    @property
    def metric_names(self) -> dict[str, str]:
        """Display names of the metrics by key."""
        first = next(iter(self.models.values()))["metrics"]
        return {metric: METRIC_NAMES.get(metric, metric) for metric in first}

    @property
    def repeats(self) -> bool:
        """Whether the folds are repeated divisions that share patients."""
        return bool(self.result["protocol"]["division"] == "repetitions")

    @property
    def no_interval(self) -> str:
        """The reason why no metric has an interval; "" where one has."""
        return same_reason({model["name"]: model["metrics"] for model in self.models.values()})


def pictures(evaluation: Evaluation) -> dict[str, Picture]:
    """The figures of every model but the baseline, by file name without suffix."""
    shown: dict[str, Picture] = _overview(evaluation)
    for key, name in evaluation.fitted:
        shown |= _pictures_of(evaluation, key, name)
    if evaluation.efficiency is not None:
        metric = METRIC_NAMES.get(evaluation.efficiency.metric, evaluation.efficiency.metric)
        drawn = learning.label_efficiency("Label efficiency", evaluation.efficiency.curves, metric)
        caption = f"{metric} when only a share of the fitted patients has labels: dots are repeats, lines their means."
        shown["label_efficiency"] = Picture.of("Label efficiency", caption, drawn)
    return shown


def _overview(evaluation: Evaluation) -> dict[str, Picture]:
    """All models in one figure: the headline with its interval, and for two classes their ROC curves."""
    metric, metric_name = next(iter(evaluation.metric_names.items()))
    chance = _CHANCE.get(metric)
    rows = []
    for key, name in evaluation.fitted:
        entry = evaluation.models[key]["metrics"][metric]
        value, low, high = (entry[part] for part in ("value", "low", "high"))
        if value is not None:
            significant = low is not None and (chance is None or not low <= chance <= high)
            rows.append(ForestRow(name, value, low, high, significant))
    shown = {}
    if any(row.low is not None for row in rows):
        caption = f"{metric_name} of every model with its {100 * evaluation.result['confidence']:g} % interval"
        caption += "; grey: the interval holds chance." if chance is not None else "."
        drawn = forest(metric_name, rows, metric_name, middle=chance)
        shown["overview"] = Picture.of(f"{metric_name} of every model", caption, drawn)
    curves = _mean_curves(evaluation) if len(evaluation.classes) == 2 else []
    if len(curves) > 1:
        caption = "ROC of every model, the mean of its folds; numbers are AUROC."
        shown["overview_roc"] = Picture.of("ROC of every model", caption, figures.roc("ROC", curves, folds=False))
    return shown


def _mean_curves(evaluation: Evaluation) -> list[figures.Curve]:
    """The ROC curve of every model that has one, averaged over its folds."""
    drawn = [(key, name, found.roc) for key, name in evaluation.fitted if (found := evaluation.figure_data.get(key))]
    areas = {key: evaluation.models[key]["metrics"].get("auroc", {}).get("value") for key, _, _ in drawn}
    return [figures.mean_curve(name, curves, areas[key]) for key, name, curves in drawn if curves]


def _pictures_of(evaluation: Evaluation, key: str, name: str) -> dict[str, Picture]:
    found = evaluation.figure_data.get(key, FigureData())
    shown = {}
    if found.roc:
        binary = len(evaluation.classes) == 2
        how = "fold by fold" if binary else "each class against the rest, all reported rows pooled"
        drawn = figures.roc(name, found.roc, folds=binary)
        shown[f"roc_{key}"] = Picture.of(f"ROC, {name}", f"ROC of {name}, {how}; numbers are AUROC.", drawn)
    if found.precision_recall:
        caption = (
            f"Precision against recall of {name}, all reported rows pooled; numbers are average precision, dotted "
        )
        caption += "lines the precision of guessing."
        drawn = figures.precision_recall(name, found.precision_recall)
        shown[f"pr_{key}"] = Picture.of(f"Precision and recall, {name}", caption, drawn)
    if found.reliability is not None:
        caption = (
            f"Reliability of {name}, all reported rows pooled: on the dashed line probabilities equal observed shares; "
        )
        caption += "bars and the areas of dots show the number of rows in a bin."
        drawn = figures.reliability(name, found.reliability)
        shown[f"reliability_{key}"] = Picture.of(f"Reliability, {name}", caption, drawn)
    if "confusion" in evaluation.models[key]:
        counts = np.array(evaluation.models[key]["confusion"], dtype=np.int64)
        caption = f"Confusion of {name}: rows are true classes, and each row adds up to 100 %."
        drawn = figures.confusion(name, counts, evaluation.classes)
        shown[f"confusion_{key}"] = Picture.of(f"Confusion, {name}", caption, drawn)
    if found.survival:
        caption = (
            f"Kaplan-Meier curves by the risk that {name} predicts, out of fold, divided at the median of each fold; "
        )
        caption += "bands are intervals, ticks are censored patients."
        drawn = survival_figures.kaplan_meier(name, found.survival, p=found.p)
        shown[f"kaplan_meier_{key}"] = Picture.of(f"Kaplan-Meier, {name}", caption, drawn)
    if found.measured is not None:
        caption = f"Predictions of {name}, out of fold, against measured values; they agree on the dashed line."
        drawn = survival_figures.measured(name, *found.measured)
        shown[f"measured_{key}"] = Picture.of(f"Predicted and measured, {name}", caption, drawn)
    return shown


def page(evaluation: Evaluation, shown: Mapping[str, Picture]) -> Page:
    """The content of the report.

    :param shown: the figures, as ``pictures`` draws them.
    """
    result, counts = evaluation.result, evaluation.result["counts"]
    return Page(
        title=_title(evaluation),
        patients=any("per_patient" in model for model in evaluation.models.values()),
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
        sections=_sections(evaluation, shown),
        data=result,
    )


def _sections(evaluation: Evaluation, shown: Mapping[str, Picture]) -> list[Section]:
    several = evaluation.result["counts"]["folds"] > 1
    folds = [_fold_table(evaluation)] if several else []
    if any("per_patient" in model for model in evaluation.models.values()):
        folds.append(_patient_table(evaluation))
    decided = [*_calibration_tables(evaluation), *_threshold_tables(evaluation)]
    sections = [Section("At a glance", [shown[name] for name in ("overview", "overview_roc") if name in shown])]
    sections.append(Section("Calibration and decisions", tables=decided, folded=True))
    sections += _figures(evaluation, shown)
    if evaluation.efficiency is not None:
        drawn = [shown["label_efficiency"]] if "label_efficiency" in shown else []
        table = _efficiency_table(evaluation.efficiency)
        sections.append(Section("Label efficiency", drawn, [table], evaluation.efficiency.left_out))
    sections += evaluation.sections
    sections.append(Section("Fold by fold" if several else "Patient by patient", tables=folds, folded=several))
    tables = [_ledger_table(evaluation)] if evaluation.ledger else []
    sections.append(Section("Division into folds", tables=[*tables, _division_table(evaluation)], folded=True))
    if evaluation.slides:
        sections.append(Section("Slide by slide", tables=[_slide_table(evaluation)], folded=True))
    return sections


def _figures(evaluation: Evaluation, shown: Mapping[str, Picture]) -> list[Section]:
    """One section per model, or a single section where no model has more than one picture."""
    of_models = [
        Section(name, [picture for kind in _KINDS if (picture := shown.get(f"{kind}_{key}")) is not None], folded=True)
        for key, name in evaluation.fitted
    ]
    if all(len(section.pictures) < 2 for section in of_models):
        return [Section("Model by model", [picture for section in of_models for picture in section.pictures])]
    return of_models


def _title(evaluation: Evaluation) -> str:
    target = evaluation.result.get("target", "the target")
    if evaluation.classes:
        return f"How well do the features tell {_enumerated(evaluation.classes)}?"
    if evaluation.result.get("task") == "survival":
        return "How well do the features order patients by risk?"
    return f"How well do the features predict {target}?"


def _calibration_tables(evaluation: Evaluation) -> list[Table]:
    rows: list[list[Any]] = []
    for model in evaluation.models.values():
        entries = model.get("calibration", {})
        if entries:
            rows.append([model["name"], *(_with_interval(entries[metric]) for metric in _CALIBRATION)])
    if not rows:
        return []
    columns = ["Model", *_CALIBRATION.values()]
    note = "ECE, the calibration error: distance of predicted probabilities from observed shares, root mean square over ten bins "
    note += "of all reported rows, corrected for chance; it needs 100 rows. Brier score: mean squared error of probabilities, "
    note += "mean over folds. Both: lower is better."
    return [Table("Calibration", columns, rows, note)]


def _threshold_tables(evaluation: Evaluation) -> list[Table]:
    rows = []
    for model in evaluation.models.values():
        for rule in model.get("thresholds", []):
            known = [value for value in rule["values"].values() if value is not None]
            span = f"{min(known):.3g} to {max(known):.3g}" if known else "undefined"
            shares = [_with_interval(rule["metrics"][share]) for share in _SHARES]
            rows.append([model["name"], rule["rule"], span, _span(rule.get("rests_on", {}), "positive"), *shares])
    if not rows:
        return []
    columns = ["Model", "Rule", "Thresholds", "Chosen on positives", *_SHARES.values()]
    note = (
        "Each fold's threshold was chosen on its validation rows, with a fit that did not include them, and applied to "
    )
    note += "its reported rows; PPV and NPV hold "
    note += f"for the share of '{evaluation.classes[1]}' among these rows only." if evaluation.classes else ""
    return [Table("Decisions at thresholds from validation", columns, _named_once(rows), note)]


def _span(folds: Mapping[str, Mapping[str, int]], what: str) -> str:
    """The number of rows of a kind in the folds: ``3`` or ``2 to 5``."""
    counts = sorted(one[what] for one in folds.values())
    if not counts:
        return "not recorded"
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _with_interval(entry: Mapping[str, Any]) -> str:
    """``0.912 (0.870–0.950)``, a dash where undefined; no line break falls within the interval."""
    if entry["value"] is None:
        return f"– ({entry['reason']})" if entry.get("reason") else "–"
    return with_interval(entry["value"], entry["low"], entry["high"], form=f"{{}} ({{}}–{_JOINED}{{}})")


def _efficiency_table(efficiency: Efficiency) -> Table:
    shares = sorted({share for curve in efficiency.curves.values() for share in curve})
    rows: list[list[Any]] = []
    for name, curve in efficiency.curves.items():
        cells = []
        for share in shares:
            values = curve.get(share, [])
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            low, high = efficiency.intervals.get(name, {}).get(share, (None, None))
            interval = "" if low is None else f" ({low:.3f}–{high:.3f})"
            cells.append(f"{np.mean(values):.3f}{spread}{interval}" if len(values) else "–")
        rows.append([name, *cells])
    metric = METRIC_NAMES.get(efficiency.metric, efficiency.metric)
    note = f"{metric}, mean over repeats ± their standard deviation; shares are of patients, smaller within larger."
    if any(low is not None for shares in efficiency.intervals.values() for low, _ in shares.values()):
        note += " In brackets: the interval of that mean; every repeat scores the same resampled patients."
    return Table("Label efficiency", ["Model", *(f"{100 * share:g} %" for share in shares)], rows, note)


def _ledger_table(evaluation: Evaluation) -> Table:
    rows = [list(row) for row in evaluation.ledger]
    return Table("Slides found and left out", ["", "Number", "First names"], rows, "All names are in audit.json.")


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
            rows.append(
                [name, f"fold {fold}", *(entries[metric]["folds"][fold]["value"] for metric in evaluation.metric_names)]
            )
        rows.append([name, "pooled", *(entries[metric]["pooled"]["value"] for metric in evaluation.metric_names)])
    note = "Pooled: all reported rows together. Models of different folds then share one ranking, so it may differ "
    note += "from the mean of the folds."
    return Table("Fold by fold", ["Model", "Rows", *evaluation.metric_names.values()], _named_once(rows), note)


def _named_once(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows with a blank first cell where it repeats the one above."""
    above = ["", *(row[0] for row in rows[:-1])]
    return [["" if row[0] == former else row[0], *row[1:]] for row, former in zip(rows, above, strict=True)]


def _division_table(evaluation: Evaluation) -> Table:
    unit = "Slides" if evaluation.result["level"] == "slide" else "Patches"
    rows = [
        [part.fold, part.name, part.patients, sum(part.rows_per_class), *part.rows_per_class[: len(evaluation.classes)]]
        for part in evaluation.parts
    ]
    return Table(
        "Division into folds",
        ["Fold", "Part", "Patients", unit, *evaluation.classes],
        rows,
        "No patient is in two parts of a fold"
        + (", but several repetitions may report one." if evaluation.repeats else ", and none is reported twice."),
    )


def _patient_table(evaluation: Evaluation) -> Table:
    rows = [
        [name, row["patient_id"], row["rows"], *(row[metric] for metric in evaluation.metric_names)]
        for key, name in evaluation.fitted
        for row in evaluation.models[key].get("per_patient", [])
    ]
    note = "Shown instead of intervals. A dash: the patient lacks rows of some class, so the metric is not defined."
    if len(rows) > _MOST_ROWS:
        note += " All patients are in metrics.json."
    columns = ["Model", "Patient", "Rows", *evaluation.metric_names.values()]
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
    note = "The probability that each model gives to the true class, out of fold; the least certain slides come first."
    if len(doubtful) > len(rows):
        note += f" {len(rows)} of {len(doubtful)} slides; all are in predictions.csv."
    return Table("Slide by slide", ["Slide", "Truth", "Fold", *(name for _, name in evaluation.fitted)], rows, note)


def _methods(evaluation: Evaluation) -> list[str]:
    result = evaluation.result
    slide_level = result["level"] == "slide"
    other = []
    if evaluation.classes:
        other.append(_nearest_method(result["protocol"], slide_level))
    bags = {
        name: epochs
        for key, name in evaluation.fitted
        if (epochs := [many for fit in result["models"][key]["fits"].values() for many in fit.get("epochs", [])])
    }
    if bags:
        other.append(_bag_method(result["protocol"], bags))
    if evaluation.classes:
        other.append(
            "“Class shares” is the baseline: it knows only how often each class occurs in the rows that were fitted on."
        )
    else:
        known = "the mean of the rows that were fitted on" if result["task"] == "regression" else "nothing"
        other.append(f"“{evaluation.models[BASELINE]['name']}” is the baseline: it knows {known}.")
    if slide_level:
        other.append("“Patch count only” knows how many patches a slide has.")
    chosen = f"{_division_method(evaluation)} {_choice_method(evaluation)}"
    tuned = [_finetune_method(evaluation)] if "finetune_epochs" in result["protocol"] else []
    return [chosen, " ".join([_linear_method(evaluation), *other]), *tuned, _interval_method(evaluation)]


def _division_method(evaluation: Evaluation) -> str:
    protocol, folds = evaluation.result["protocol"], evaluation.result["counts"]["folds"]
    if evaluation.repeats:
        return (
            f"{folds} divisions were given, each of the patients anew, so that several may report a patient; each was reported "
            "by models that saw none of its patients."
        )
    if protocol["division"] != "folds":
        return "The division into training and test was given; no patient is on both sides."
    if protocol.get("cv") == "site":
        return f"Each of {folds} sites was left out once and reported by models that saw none of its patients."
    if protocol.get("division_from") == "given":
        return f"The division into {folds} folds was given; each was reported by models that saw none of its patients."
    by = {"regression": "quantile of the target", "survival": "event"}.get(evaluation.result.get("task", ""), "class")
    return (
        f"Patients were divided into {folds} disjoint folds, stratified by {by}; each fold was reported "
        "by models that saw none of its patients."
    )


def _choice_method(evaluation: Evaluation) -> str:
    slide_level = evaluation.result["level"] == "slide"
    return (
        "About "
        f"{100 * evaluation.result['protocol']['validation']:.0f} % of the training part, by patient, chose settings "
        f"(the penalty of linear models, k{', the epoch of bag models' if slide_level else ''}) and thresholds, unless a "
        "validation split was given. The reported rows chose nothing: no setting, no epoch, no threshold"
        f"{'; a prediction is the most probable class' if evaluation.classes else ''}."
    )


def _linear_method(evaluation: Evaluation) -> str:
    protocol = evaluation.result["protocol"]
    if protocol.get("linear") == "sgd":
        return _sgd_method(evaluation)
    path = protocol["c_path"]
    on = "the mean of a slide’s patches" if evaluation.result["level"] == "slide" else "patches"
    kind, setting, by = {
        "regression": ("Ridge regression", "alpha", "squared error"),
        "survival": ("Cox regression with a squared penalty, ties after Efron,", "C", "partial likelihood"),
    }.get(evaluation.result.get("task", ""), ("Logistic regression (scikit-learn’s objective)", "C", "cross-entropy"))
    return (
        f"{kind} on {on}, standardised on the rows it was fitted on: {setting} from {path[0]:g} to {path[-1]:g} by validation "
        f"{by}, then fitted again on training and validation rows."
    )


def _sgd_method(evaluation: Evaluation) -> str:
    protocol = evaluation.result["protocol"]
    on = "the mean of a slide’s patches" if evaluation.result["level"] == "slide" else "patches"
    return (
        f"A linear layer on frozen features of {on}, standardised on the rows it was fitted on: {protocol['linear_epochs']} "
        f"epochs of SGD at {protocol['linear_lr']:g}, a tenth of it after 60 % and again after 80 % of them, momentum 0.9, "
        "batches of 128, the last epoch taken. It is fitted on training and validation rows; thresholds come from a fit without "
        "the latter."
    )


def _finetune_method(evaluation: Evaluation) -> str:
    protocol, few = evaluation.result["protocol"], ""
    shares, rates = protocol["finetune_shares"].replace(",", ", "), protocol["finetune_lr"].replace(",", " or ")
    if protocol["finetune_seeds"] > 1:
        few = f", {protocol['finetune_seeds']} seeds a fold, whose predictions are averaged"
    return (
        "Fine-tuning: the whole network with a linear layer on top is fitted on the patch images, from the encoder’s weights, "
        f"and for comparison from random ones, on {shares} % of the fitted patients: "
        f"{protocol['finetune_epochs']} epochs of SGD with momentum 0.9, weight decay 0.0001, batches of at most "
        f"{protocol['finetune_batch']}, the rate falling from its highest to 0 as a cosine. Training sees crops of 20 to 100 % "
        "of a patch, mirrored half of the time; predictions are of the encoder’s own centre crop. Each network’s highest rate "
        f"({rates}) and its epoch were chosen by validation cross-entropy in each fold; without validation "
        f"patients they are the lowest rate and the last epoch{few}."
    )


def _bag_method(protocol: Mapping[str, Any], epochs: Mapping[str, Sequence[int]]) -> str:
    """Of bag models, with the epochs of their fits by the models' names."""
    several = protocol.get("seeds", 1)
    seeds = f", {several} seeds a fold, whose predictions are averaged" if several > 1 else ""
    drawn = (
        f", {protocol['bag_sample']} of them drawn anew every epoch of training" if protocol.get("bag_sample") else ""
    )
    return (
        f"{'; '.join(epochs)}: on all patches of a slide{drawn}, standardised on training patches, width "
        f"{protocol['mil_hidden']}, dropout {protocol['mil_dropout']:g}, AdamW at {protocol['mil_lr']:g}, at most "
        f"{protocol['mil_epochs']} epochs, stopped after {protocol['mil_patience']} without a lower validation loss, the "
        f"best epoch kept{seeds}.{_capped(protocol['mil_epochs'], epochs)} "
        "The attention of a slide, under attention/, comes from models that did not train on it."
    )


def _capped(most: int, epochs: Mapping[str, Sequence[int]]) -> str:
    """A sentence on the fits that used all epochs, so that training did not stop early; "" where there are none."""
    found = [
        f"{many} of {len(of_fits)} fits of {name}"
        for name, of_fits in epochs.items()
        if (many := sum(one >= most for one in of_fits))
    ]
    return (
        f" All {most} epochs were used by {', '.join(found)}; more (--mil-epochs) may give better models."
        if found
        else ""
    )


def _nearest_method(protocol: Mapping[str, Any], slide_level: bool) -> str:
    return (
        f"Weighted kNN{' on the same means' if slide_level else ''}: cosine similarity, k {protocol['knn_k']}, votes "
        f"exp(similarity / {protocol['knn_temperature']:g}), training and validation rows as reference. SimpleShot: nearest "
        "centroid of centred features of unit length."
    )


def _interval_method(evaluation: Evaluation) -> str:
    if evaluation.no_interval:
        return f"There are no intervals: {evaluation.no_interval}."
    how = "once for all repetitions, which share patients" if evaluation.repeats else "within each fold"
    return (
        f"Intervals ({100 * evaluation.result['confidence']:g} %): {evaluation.result['resamples']} resamples of patients "
        f"{how}, stratified by class, n − 1 of n with weights n / (n − 1) (Rao and Wu, 1988); the metric is computed "
        "in each fold and averaged over the folds, as the headline is. The interval is Student’s, on the logit for shares. Its "
        "standard error is that over the resamples, or that of leaving each patient out in turn where this is larger; the "
        "latter also gives the bias, which is taken off, and the degrees of freedom. Intervals are conditional on the "
        "fitted models: they do not say how much another training set would have changed the models."
    )
