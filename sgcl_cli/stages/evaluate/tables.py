"""Results of ``sgcl evaluate`` as JSON values and rows of tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.evaluations import METRIC_NAMES
from sgcl_cli.artefacts.results import Matrix
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data import split_files
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.probe.models import linear, linear_cox, ridge
from sgcl_cli.probe.scores import metrics
from sgcl_cli.probe.scores.uncertainty import Headline
from sgcl_cli.report.numbers import with_interval
from sgcl_cli.stages.evaluate.fitting import Scores
from sgcl_cli.stages.evaluate.scores import Scored, log_rank_p, reported_rows, spread_dict

FORMAT = "sgcl.evaluation/1"
_WITHIN = "patients resampled within each fold, stratified by class; conditional on the fitted models"
_REPEATED = "each patient drawn once for all repetitions, stratified by class; conditional on the fitted models"
TABLES = ("audit.json", "splits.csv", "predictions.csv", "predictions_patients.csv", "metrics.csv", "metrics.json")
_PROTOCOL = ("mil_", "knn_", "seeds", "bag_sample", "cv", "models", "linear")


def metrics_json(config: EvaluateConfig, cohort: Cohort, plan: Plan, scores: Scores, identity: str) -> dict[str, Any]:
    """The content of metrics.json."""
    refused = all(one.no_interval for model in scores.models for one in model.headlines.values())
    path = {"regression": ridge.ALPHA_PATH, "survival": linear_cox.C_PATH}.get(cohort.task, linear.C_PATH)
    return {
        "format": FORMAT,
        "id": identity,
        "level": cohort.level,
        "unit": cohort.unit,
        "task": cohort.task,
        "target": config.target,
        "classes": list(cohort.classes),
        "patients_known": cohort.patients_known,
        "counts": {"rows": len(cohort), "slides": cohort.slides, "patients": cohort.patients, "folds": len(plan.folds)},
        "confidence": config.confidence,
        "resamples": 0 if refused else config.bootstrap,
        "protocol": {
            "division": "repetitions" if plan.repeats else "folds" if len(plan.folds) > 1 else "given",
            "division_from": "patients" if cohort.split is None and config.splits is None else "given",
            "splits": split_files.identity(plan, cohort.slide_id, cohort.patient_id),
            "c_path": list(path),
            "preset": config.protocol,
            **_settings(config),
            "knn_k": config.knn_k or "10, 20, 100 or 200 by validation",
            "validation": config.validation,
            "seed": config.seed,
        },
        "interval": _REPEATED if plan.repeats else _WITHIN,
        "attention_model": scores.attention_model,
        "patch_model": scores.patch_model,
        "models": {model.key: _model(cohort, plan, model, refused and config.bootstrap > 0) for model in scores.models},
        **({} if scores.efficiency is None else {"label_efficiency": scores.efficiency}),
    }


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    """The settings of the models; with --finetune those of fine-tuning as well."""
    used = (*_PROTOCOL, "finetune_") if config.finetune is not None else _PROTOCOL
    return {name: value for name, value in config.affecting().items() if name.startswith(used)}


def _model(cohort: Cohort, plan: Plan, model: Scored, alone: bool) -> dict[str, Any]:
    """The entry of a model.

    :param alone: whether each patient's own values are listed, because no metric has an interval.
    """
    entry: dict[str, Any] = {
        "name": model.name,
        "metrics": {
            metric: {**headline.as_dict(), "spread": spread_dict(model.spread, metric)}
            for metric, headline in model.headlines.items()
        },
        "fits": model.folds,
    }
    if model.calibration:
        entry["calibration"] = {metric: headline.as_dict() for metric, headline in model.calibration.items()}
    if model.rules:
        entry["thresholds"] = [
            {
                "rule": rule.name,
                "values": rule.values,
                "rests_on": {fold: {"positive": p, "negative": n} for fold, (p, n) in rule.rests_on.items()},
                "metrics": {metric: headline.as_dict() for metric, headline in rule.headlines.items()},
            }
            for rule in model.rules
        ]
    if cohort.task == "survival":
        entry["risk_groups"] = {
            "rule": "above the median risk of the fold's reported rows",
            "log_rank_p": log_rank_p(cohort, plan, model.prediction),
        }
    if cohort.classes:
        rows, fold_of = reported_rows(cohort, plan)
        predicted = model.prediction
        entry["confusion"] = metrics.confusion(cohort.label[rows], predicted, len(cohort.classes)).tolist()
        if alone:
            patient = cohort.patient_id[rows]
            entry["per_patient"] = metrics.per_patient(
                metrics.Predictions(cohort.label[rows], predicted, fold_of, patient, cohort.classes)
            )
    return entry


def matrix(data: Mapping[str, Any]) -> Matrix:
    """Models by metrics, from the content of metrics.json.

    A number in brackets refers to the note with the reason for a missing score or interval.
    """
    models = list(data["models"].values())
    metrics = [metric for metric in models[0]["metrics"] if metric != "accuracy"]
    rows = [(model["name"], [model["metrics"][metric] for metric in metrics]) for model in models]
    return _matrix("model", [METRIC_NAMES[metric] for metric in metrics], rows)


def share_matrix(data: Mapping[str, Any]) -> Matrix | None:
    """Models by shares of the patients, means over the repeats; None where metrics.json has no label efficiency."""
    found = data.get("label_efficiency") or {}
    shares = {float(share): share for curve in found.get("curves", {}).values() for share in curve if float(share) < 1}
    if not shares:
        return None
    rows = [
        (
            found["names"][key],
            [
                {"value": float(np.mean(curve[share])), **found["intervals"][key][share]} if share in curve else None
                for _, share in sorted(shares.items())
            ],
        )
        for key, curve in found["curves"].items()
    ]
    columns = [f"{100 * share:g} % of the patients" for share in sorted(shares)]
    return _matrix(METRIC_NAMES[found["metric"]], columns, rows)


def _matrix(
    corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Mapping[str, Any] | None]]]
) -> Matrix:
    reasons: dict[str, int] = {}

    def cell(entry: Mapping[str, Any] | None) -> str:
        if entry is None:
            return "–"
        if entry["value"] is not None and entry["low"] is not None:
            return with_interval(entry["value"], entry["low"], entry["high"], form="{}\n{} to {}")
        why = f"undefined: {entry['reason']}" if entry["value"] is None else f"no interval: {entry['no_interval']}"
        number = reasons.setdefault(why, len(reasons) + 1)
        return f"{'undefined' if entry['value'] is None else format(entry['value'], '.3f')} [{number}]"

    cells = [(name, [cell(entry) for entry in entries]) for name, entries in rows]
    return Matrix(corner, columns, cells, [f"[{number}] {why}" for why, number in reasons.items()])


def prediction_columns(cohort: Cohort) -> list[str]:
    """The columns of predictions.csv: label, predicted and p_<class>; for regression label and predicted; for survival
    time, event and risk."""
    place = [] if cohort.row is None else ["row"]
    if cohort.task == "survival":
        values = ["time", "event", "fold", "model", "risk"]
    else:
        values = ["label", "fold", "model", "predicted", *_probability_columns(cohort)]
    return ["slide_id", *place, "patient_id", *values]


def _probability_columns(cohort: Cohort) -> list[str]:
    return [f"p_{name}" for name in cohort.classes]


def prediction_rows(cohort: Cohort, plan: Plan, models: Sequence[Scored]) -> Iterator[dict[str, Any]]:
    """One row for each model and reported slide or patch."""
    reported, fold_of = reported_rows(cohort, plan)
    for model in models:
        for place, (index, fold) in enumerate(zip(reported.tolist(), fold_of.tolist(), strict=True)):
            yield {
                "slide_id": str(cohort.slide_id[index]),
                "row": None if cohort.row is None else int(cohort.row[index]),
                "patient_id": str(cohort.patient_id[index]),
                "fold": fold,
                "model": model.key,
                **prediction_cells(cohort, index, model.prediction[place]),
            }


def prediction_cells(cohort: Cohort, index: int, prediction: NDArray[np.float64]) -> dict[str, Any]:
    """Truth and prediction, (K,), of a row, by the columns of predictions.csv."""
    if cohort.value is not None:
        return {"label": f"{cohort.value[index]:.8g}", "predicted": f"{prediction[0]:.8g}"}
    if cohort.time is not None and cohort.event is not None:
        time, event = float(cohort.time[index]), int(cohort.event[index])
        return {"time": f"{time:.8g}", "event": event, "risk": f"{prediction[0]:.8g}"}
    return {
        "label": cohort.classes[cohort.label[index]],
        "predicted": cohort.classes[int(prediction.argmax())],
        **{name: f"{value:.8g}" for name, value in zip(_probability_columns(cohort), prediction, strict=True)},
    }


def tidy_metrics(models: Sequence[Scored]) -> list[dict[str, Any]]:
    """One row for each model, metric and scope: mean over folds, each fold, all rows pooled, standard deviations over folds
    and over seeds. Metrics at a threshold are named with its rule: ``sensitivity at Youden``."""
    rows: list[dict[str, Any]] = []
    for model in models:
        for metric, headline in (model.headlines | model.calibration).items():
            rows += _tidy(model.key, metric, headline)
            if metric in model.spread:
                sides = spread_dict(model.spread, metric)
                rows += [
                    {"model": model.key, "metric": metric, "scope": f"sd of {over}", "value": value}
                    for over, value in sides.items()
                ]
        for rule in model.rules:
            for fold, value in rule.values.items():
                threshold = {"metric": f"threshold by {rule.name}", "scope": f"fold {fold}", "value": value}
                rows.append({"model": model.key, **threshold})
            for metric, headline in rule.headlines.items():
                rows += _tidy(model.key, f"{metric} at {rule.name}", headline)
    return rows


def _tidy(key: str, metric: str, headline: Headline) -> list[dict[str, Any]]:
    why = headline.reason or (headline.no_interval and f"no interval: {headline.no_interval}")
    mean = {"value": headline.value, "low": headline.low, "high": headline.high, "reason": why}
    scopes: dict[str, dict[str, Any]] = {"mean": mean}
    scopes |= {f"fold {name}": {"value": s.value, "reason": s.reason} for name, s in headline.folds.items()}
    scopes["pooled"] = {"value": headline.pooled.value, "reason": headline.pooled.reason}
    return [{"model": key, "metric": metric, "scope": scope, **row} for scope, row in scopes.items()]


def score_columns(task: str, classes: Sequence[str]) -> list[str]:
    """The columns of a prediction: p_<class>; for regression predicted; for survival risk."""
    return [f"p_{name}" for name in classes] or ["risk" if task == "survival" else "predicted"]


def patches_csv(coords: NDArray[np.int64] | None, columns: Mapping[str, NDArray[np.floating]]) -> str:
    """A CSV table with one line per patch: its row in the feature file, its level-0 corner where known, and ``columns``.

    :param coords: (N, 2), level-0 pixels; None where unknown.
    :param columns: (N,) each, by name; written with 9 significant digits.
    """
    place = [] if coords is None else ["x", "y"]
    rows = (
        np.arange(len(next(iter(columns.values()))))[:, None]
        if coords is None
        else np.insert(coords, 0, np.arange(len(coords)), 1)
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", *place, *columns])
    for left, right in zip(rows.tolist(), np.stack([*columns.values()], 1).tolist(), strict=True):
        writer.writerow([*left, *(f"{value:.9g}" for value in right)])
    return stream.getvalue()
