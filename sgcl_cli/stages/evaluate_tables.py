"""Results of ``sgcl evaluate`` as JSON values and rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe import linear, metrics
from sgcl_cli.probe.cohort import Cohort
from sgcl_cli.probe.splits import Plan
from sgcl_cli.report import page
from sgcl_cli.stages.evaluate_fit import Model, reported_rows

FORMAT = "sgcl.evaluation/1"


def metrics_json(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, models: Sequence[Model], identity: str
) -> dict[str, Any]:
    """The content of metrics.json."""
    reported, fold_of = reported_rows(cohort, plan)
    refused = models[0].headlines["accuracy"].no_interval
    result: dict[str, Any] = {
        "format": FORMAT,
        "id": identity,
        "level": cohort.level,
        "unit": cohort.unit,
        "task": "binary" if cohort.binary else "multiclass",
        "classes": list(cohort.classes),
        "patients_known": cohort.patients_known,
        "counts": {"rows": len(cohort), "slides": cohort.slides, "patients": cohort.patients, "folds": len(plan.folds)},
        "confidence": config.confidence,
        "resamples": 0 if refused else config.bootstrap,
        "protocol": {
            "division": "folds" if cohort.split is None else "given",
            "c_path": list(linear.C_PATH),
            **{name: value for name, value in config.affecting().items() if name.startswith(("mil_", "knn_"))},
            "validation": config.validation,
            "seed": config.seed,
        },
        "interval": "patients resampled within each fold, stratified by class; conditional on the fitted models",
        "models": {
            model.key: {
                "name": model.name,
                "metrics": {metric: headline.as_dict() for metric, headline in model.headlines.items()},
                "fits": model.folds,
                "confusion": metrics.confusion(
                    cohort.label[reported], model.probability[reported], len(cohort.classes)
                ).tolist(),
            }
            for model in models
        },
    }
    if refused and config.bootstrap:
        for model in models:
            predictions = metrics.Predictions(
                cohort.label[reported],
                model.probability[reported],
                fold_of,
                cohort.patient_id[reported],
                cohort.classes,
            )
            result["models"][model.key]["per_patient"] = metrics.per_patient(predictions)
    return result


def closing_table(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the closing table, from the content of metrics.json."""
    rows = []
    for model in data["models"].values():
        for metric, entry in model["metrics"].items():
            if metric != "accuracy":
                rows.append((f"{model['name']}: {page.METRIC_NAMES[metric]}", spoken(entry)))
    return rows


def spoken(entry: Mapping[str, Any]) -> str:
    """One headline in words: ``0.912 (0.870 to 0.950)``, or why it is undefined."""
    if entry["value"] is None:
        return f"undefined: {entry['reason']}"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def split_rows(cohort: Cohort, plan: Plan) -> list[dict[str, Any]]:
    """One row a slide (or image without a known patient) and fold."""
    rows = []
    for fold in plan.folds:
        for name, members in (("train", fold.train), ("val", fold.validation), ("test", fold.test)):
            pairs = dict.fromkeys(
                zip(cohort.slide_id[members].tolist(), cohort.patient_id[members].tolist(), strict=True)
            )
            rows += [{"slide_id": s, "patient_id": p, "fold": fold.name, "split": name} for s, p in pairs]
    return rows


def prediction_columns(cohort: Cohort) -> list[str]:
    """The columns of predictions.csv."""
    place = [] if cohort.row is None else ["row"]
    return ["slide_id", *place, "patient_id", "label", "fold", "model", "predicted", *_probability_columns(cohort)]


def _probability_columns(cohort: Cohort) -> list[str]:
    return [f"p_{name}" for name in cohort.classes]


def prediction_rows(cohort: Cohort, plan: Plan, models: Sequence[Model]) -> Iterator[dict[str, Any]]:
    """One row a reported slide or patch and model."""
    reported, fold_of = reported_rows(cohort, plan)
    columns = _probability_columns(cohort)
    for model in models:
        for index, fold in zip(reported.tolist(), fold_of.tolist(), strict=True):
            probability = model.probability[index]
            yield {
                "slide_id": str(cohort.slide_id[index]),
                "row": None if cohort.row is None else int(cohort.row[index]),
                "patient_id": str(cohort.patient_id[index]),
                "label": cohort.classes[cohort.label[index]],
                "fold": fold,
                "model": model.key,
                "predicted": cohort.classes[int(probability.argmax())],
                **{column: f"{value:.8g}" for column, value in zip(columns, probability, strict=True)},
            }


def tidy_metrics(models: Sequence[Model]) -> list[dict[str, Any]]:
    """One row a model, metric and scope (mean over folds, each fold, all rows pooled)."""
    rows = []
    for model in models:
        for metric, headline in model.headlines.items():
            mean = {"value": headline.value, "low": headline.low, "high": headline.high, "reason": headline.reason}
            scopes: dict[str, dict[str, Any]] = {"mean": mean}
            scopes |= {f"fold {name}": {"value": s.value, "reason": s.reason} for name, s in headline.folds.items()}
            scopes["pooled"] = {"value": headline.pooled.value, "reason": headline.pooled.reason}
            rows += [{"model": model.key, "metric": metric, "scope": scope, **row} for scope, row in scopes.items()]
    return rows


def attention_csv(coords: NDArray[np.int64] | None, attention: NDArray[np.float32]) -> str:
    """Patch by patch: row in the feature file, level-0 corner where known, attention (sums to 1 over the slide)."""
    if coords is None:
        lines = ["row,attention", *(f"{row},{weight:.6g}" for row, weight in enumerate(attention.tolist()))]
    else:
        numbers = enumerate(zip(coords.tolist(), attention.tolist(), strict=True))
        lines = ["row,x,y,attention", *(f"{row},{x},{y},{weight:.6g}" for row, ((x, y), weight) in numbers)]
    return "\n".join(lines) + "\n"
