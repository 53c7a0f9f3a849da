"""``sgcl evaluate``: from features and labels to a table with intervals, predictions, figures and a report.

Everything is computed before the first result is written; run.json comes last, so a folder with run.json is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.labels import Labels, read_labels
from sgcl_cli.artefacts.results import Outcome, RunRecord, versions
from sgcl_cli.config import EvaluateConfig, differences, flag
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe import cohort as cohorts
from sgcl_cli.probe import knn, linear, metrics, splits, uncertainty
from sgcl_cli.probe.audit import Audit
from sgcl_cli.probe.cohort import Cohort, Source
from sgcl_cli.probe.mil import training
from sgcl_cli.probe.mil.bags import Bags, mean_pool
from sgcl_cli.probe.splits import Fold, Plan
from sgcl_cli.probe.targets import Classes
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.report import evaluation, figures, page
from sgcl_cli.stages import bag_models

FORMAT = "sgcl.evaluation/1"

Floats = NDArray[np.float64]
Fitted = tuple[Floats, dict[str, Any]]
FitOneFold = Callable[[Fold], Fitted]


@dataclass
class Model:
    """One row of the table: its name and its probabilities for the reported rows."""

    key: str
    name: str
    probability: Floats
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    headlines: dict[str, uncertainty.Headline] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """What is read: the sources, the table, whether it has the target, and the ids of all of it."""

    sources: tuple[Source, ...]
    labels: Labels | None
    level: cohorts.Level
    inferred: list[tuple[str, str, str]]
    ids: dict[str, str]


def evaluate(config: EvaluateConfig, reporter: Reporter | None = None) -> Outcome:
    """Fit probes on frozen features, honestly, and report them.

    Writes metrics.json, metrics.csv, predictions.csv, splits.csv, audit.json, figures/, attention/ (slide level),
    report.html and run.json under ``config.out``. A complete result of the same settings and inputs is returned as it is.

    :raises ConfigError: the folder holds a result of other settings or inputs, or the settings contradict the data.
    :raises LabelError: the audit forbids an honest evaluation; audit.json says why.
    :raises ArtefactError: features cannot be read, or results cannot be written.
    """
    reporter = reporter or Silent()
    record = RunRecord("evaluate", config)
    out = Path(config.out)
    audit = Audit()
    with _recording_errors(audit, out, config.dry_run):
        inputs = _open(config, audit)
        stored = _stored(out, config, inputs.ids)
        if stored is not None:
            reporter.note(f"{out} is complete under the same settings and inputs; nothing to do")
            return stored
        cohort = _cohort(config, inputs, audit)
        plan = _plan(config, cohort, audit)
    described = [*inputs.inferred, *_describe(cohort, plan, config)]
    for what, value, why in described:
        reporter.note(f"{what}: {value}" + (f" ({why})" if why else ""))
    for warning in audit.warnings:
        reporter.warn(warning)
    if config.dry_run:
        headline = [(what.lower(), value) for what, value, _ in described]
        return Outcome("evaluate", out, headline, cohort.slides, warnings=audit.warnings, data={"plan": dict(headline)})
    identity = store.artefact_id(FORMAT, config.affecting(), [f"{k}={v}" for k, v in sorted(inputs.ids.items())])
    models, attention = _fit(config, cohort, plan, reporter)
    return _write(config, inputs, cohort, plan, audit, models, attention, record, identity, reporter)


@contextmanager
def _recording_errors(audit: Audit, out: Path, dry_run: bool) -> Iterator[None]:
    """Leave audit.json behind when labels forbid the evaluation."""
    try:
        yield
    except LabelError as error:
        if all(finding.level != "error" for finding in audit.findings):
            audit.error("labels", error.message, error.hint)
        if not dry_run and not (out / "run.json").exists():
            store.write_json(out / "audit.json", audit.as_dict())
        raise


def _open(config: EvaluateConfig, audit: Audit) -> Inputs:
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


def _stored(out: Path, config: EvaluateConfig, ids: Mapping[str, str]) -> Outcome | None:
    """The result that is there already, if it is complete and the same.

    :raises ConfigError: it was made under other settings or from other inputs, and --overwrite was not given.
    """
    if config.overwrite or not (out / "run.json").exists():
        return None
    run = store.read_json(out / "run.json")
    if run.get("stage") != "evaluate":
        raise ConfigError(f"{out} holds the output of sgcl {run.get('stage')}", "choose another --out")
    changed = differences(run.get("affecting", {}), config.affecting())
    changed += [
        f"{flag(name)} has other content now" for name, value in ids.items() if run["inputs"].get(name, value) != value
    ]
    gone = sorted(set(run["inputs"]) ^ set(ids))
    changed += [f"{flag(name)} was {'' if name in run['inputs'] else 'not '}given" for name in gone]
    if changed:
        raise ConfigError(
            f"{out} holds a result of other settings: {'; '.join(changed)}", "choose another --out, or say --overwrite"
        )
    if any(not (out / name).exists() for name in run["result"]["files"]):
        return None
    data = {k: v for k, v in run["result"].items() if k not in ("stage", "out", "failures", "warnings")}
    return Outcome(
        "evaluate",
        out,
        _closing_table(data),
        total=int(data["counts"]["slides"]),
        warnings=list(run["result"]["warnings"]),
        data=data,
    )


def _cohort(config: EvaluateConfig, inputs: Inputs, audit: Audit) -> Cohort:
    if inputs.level == "slide":
        assert inputs.labels is not None
        return cohorts.by_slide(
            inputs.sources, inputs.labels, task=config.task, allow_missing=config.allow_missing, audit=audit
        )
    return cohorts.by_patch(inputs.sources, inputs.labels, task=config.task, audit=audit)


def _plan(config: EvaluateConfig, cohort: Cohort, audit: Audit) -> Plan:
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


def _describe(cohort: Cohort, plan: Plan, config: EvaluateConfig) -> list[tuple[str, str, str]]:
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


def _fit(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, reporter: Reporter
) -> tuple[list[Model], dict[str, NDArray[np.float32]]]:
    """Fit every model in every fold; attention by slide comes from the model that did not train on that slide."""
    attention: dict[str, NDArray[np.float32]] = {}
    runs: list[tuple[str, str, FitOneFold]] = [("majority", "Class shares", lambda fold: _majority(cohort, fold))]
    if cohort.level == "patch":
        features = cohorts.patch_features(cohort)
        runs += [
            ("linear", "Logistic regression", lambda fold: _logistic(features, cohort, fold)),
            ("knn", f"Weighted kNN, k {config.knn_k}", lambda fold: _nearest(config, features, cohort, fold)),
        ]
    else:
        rows, offsets = cohorts.bag_rows(cohort)
        pooled = mean_pool(rows, offsets)
        device = engine_runtime.start(config.device, "fp32", config.threads).device
        bags = training.Cohort.of(
            Bags(torch.from_numpy(rows).to(device), torch.from_numpy(offsets).to(device)),
            Classes(torch.from_numpy(cohort.label).to(device), len(cohort.classes)),
            cohort.slide_id,
        )
        runs += [
            ("mean_pool", "Mean pool, logistic regression", lambda fold: _logistic(pooled, cohort, fold)),
            ("abmil", "Gated attention (ABMIL)", lambda fold: _attention(config, bags, cohort, fold, attention)),
        ]
    models = []
    with reporter.task("fitting", len(runs) * len(plan.folds), "fit") as task:
        for key, name, fit_fold in runs:
            model = Model(key, name, np.full((len(cohort), len(cohort.classes)), np.nan))
            for fold in plan.folds:
                task.update(note=f"{name}, fold {fold.name}")
                model.probability[fold.test], model.folds[fold.name] = fit_fold(fold)
                task.advance()
            models.append(model)
    reported, fold_of = _reported(cohort, plan)
    for model in models:
        unconverged = [name for name, details in model.folds.items() if details.get("converged") is False]
        if unconverged:
            reporter.warn(f"{model.name} did not converge in fold {', '.join(unconverged)}")
        predictions = metrics.Predictions(
            cohort.label[reported], model.probability[reported], fold_of, cohort.patient_id[reported], cohort.classes
        )
        model.headlines = uncertainty.headlines(
            predictions, resamples=config.bootstrap, confidence=config.confidence, seed=config.seed
        )
    return models, attention


def _reported(cohort: Cohort, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Rows that are in some fold's test part, ascending, and the name of that fold."""
    fold_of = np.full(len(cohort), "", dtype=object)
    for fold in plan.folds:
        fold_of[fold.test] = fold.name
    reported = np.flatnonzero(fold_of != "")
    return reported, fold_of[reported].astype(np.str_)


def _majority(cohort: Cohort, fold: Fold) -> Fitted:
    share = np.bincount(cohort.label[fold.fitted], minlength=len(cohort.classes)) / len(fold.fitted)
    return np.tile(share, (len(fold.test), 1)), {}


def _logistic(features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> Fitted:
    probe = linear.fit(
        features, cohort.label, fold.train, fold.validation, classes=len(cohort.classes), path=linear.C_PATH
    )
    details = {
        "c": probe.c,
        "converged": probe.converged,
        "validation_loss": {f"{c:g}": v for c, v in probe.path.items()},
    }
    return probe(features[fold.test]), details


def _nearest(config: EvaluateConfig, features: NDArray[np.floating], cohort: Cohort, fold: Fold) -> Fitted:
    probability = knn.predict(
        features[fold.fitted],
        cohort.label[fold.fitted],
        features[fold.test],
        classes=len(cohort.classes),
        k=config.knn_k,
        temperature=config.knn_temperature,
    )
    return probability, {"k": min(config.knn_k, len(fold.fitted))}


def _attention(
    config: EvaluateConfig,
    bags: training.Cohort,
    cohort: Cohort,
    fold: Fold,
    attention: dict[str, NDArray[np.float32]],
) -> Fitted:
    recipe = bag_models.Recipe(
        "gated", config.mil_epochs, config.mil_patience, config.mil_lr, config.mil_hidden, config.mil_dropout
    )
    fitted = bag_models.fit_fold(recipe, bags, fold, bag_models.seeds_of(config.seed, 1, fold))
    attention.update(zip(cohort.slide_id[fold.test].tolist(), fitted.attention or [], strict=True))
    details = {
        "epochs": fitted.epochs[0],
        "best_epoch": fitted.best_epochs[0],
        "validation_loss": fitted.validation_losses[0],
    }
    return fitted.test.mean(0), details


def _write(
    config: EvaluateConfig,
    inputs: Inputs,
    cohort: Cohort,
    plan: Plan,
    audit: Audit,
    models: Sequence[Model],
    attention: Mapping[str, NDArray[np.float32]],
    record: RunRecord,
    identity: str,
    reporter: Reporter,
) -> Outcome:
    """Write everything, run.json last."""
    out = Path(config.out)
    store.sweep(out)
    _remove_former(out)
    warnings = list(audit.warnings)
    if not figures.AVAILABLE:
        warnings.append("matplotlib is not installed: the figures are left out")
        reporter.warn(warnings[-1])
    result = _metrics_json(config, cohort, plan, models, identity)
    finished = evaluation.Evaluation(
        result=result,
        inferred=[*inputs.inferred, *_describe(cohort, plan, config)],
        warnings=warnings,
        parts=_parts(cohort, plan),
        curves={model.key: _curves(cohort, plan, model) for model in models},
        encoder=str((cohort.files[0].attributes or {}).get("encoder", "not recorded")),
        command=config.command_line(),
        provenance=_provenance(identity, inputs.ids),
        slides=_slide_results(cohort, plan, models),
    )
    pictures = evaluation.pictures(finished) if figures.AVAILABLE else {}
    files = ["audit.json", "splits.csv", "predictions.csv", "metrics.csv", "report.html", "metrics.json"]
    store.write_json(out / "audit.json", audit.as_dict())
    store.write_csv(out / "splits.csv", ["slide_id", "patient_id", "fold", "split"], _split_rows(cohort, plan))
    columns = _prediction_columns(cohort)
    store.write_csv(out / "predictions.csv", columns, list(_prediction_rows(cohort, plan, models)))
    store.write_csv(
        out / "metrics.csv",
        ["model", "metric", "scope", "value", "low", "high", "reason"],
        _tidy_metrics(models),
    )
    for name, picture in pictures.items():
        store.write_bytes(out / "figures" / f"{name}.png", picture.png)
        files.append(f"figures/{name}.png")
    for file, slide in zip(cohort.files, cohort.slide_id.tolist(), strict=True) if attention else ():
        if slide in attention:
            path = Path("attention") / f"{file.path.stem}.csv"
            store.write_text(out / path, _attention_csv(file.coords, attention[slide]))
            files.append(str(path))
    html = page.render(evaluation.page(finished, list(pictures.values())))
    store.write_text(out / "report.html", html)
    store.write_json(out / "metrics.json", result)
    data = {**{k: v for k, v in result.items() if k != "format"}, "files": files}
    outcome = Outcome("evaluate", out, _closing_table(data), total=cohort.slides, warnings=warnings, data=data)
    record.write(out, artefact=identity, inputs=inputs.ids, outcome=outcome)
    return outcome


def _remove_former(out: Path) -> None:
    """Take away a result that is about to be replaced, run.json first, so that old and new are never mixed."""
    with store.writing(out):
        (out / "run.json").unlink(missing_ok=True)
        for pattern in ("figures/roc_*.png", "figures/confusion_*.png", "attention/*.csv"):
            for path in out.glob(pattern):
                path.unlink()


def _metrics_json(
    config: EvaluateConfig, cohort: Cohort, plan: Plan, models: Sequence[Model], identity: str
) -> dict[str, Any]:
    reported, fold_of = _reported(cohort, plan)
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


def _closing_table(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for model in data["models"].values():
        for metric, name in page.METRIC_NAMES.items():
            entry = model["metrics"][metric]
            if metric == "accuracy":
                continue
            rows.append((f"{model['name']}: {name}", _spoken(entry)))
    return rows


def _spoken(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return f"undefined: {entry['reason']}"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _split_rows(cohort: Cohort, plan: Plan) -> list[dict[str, Any]]:
    """One row a slide (or image without a known patient) and fold."""
    rows = []
    for fold in plan.folds:
        for name, members in (("train", fold.train), ("val", fold.validation), ("test", fold.test)):
            pairs = dict.fromkeys(
                zip(cohort.slide_id[members].tolist(), cohort.patient_id[members].tolist(), strict=True)
            )
            rows += [{"slide_id": s, "patient_id": p, "fold": fold.name, "split": name} for s, p in pairs]
    return rows


def _prediction_columns(cohort: Cohort) -> list[str]:
    place = [] if cohort.row is None else ["row"]
    return ["slide_id", *place, "patient_id", "label", "fold", "model", "predicted", *_probability_columns(cohort)]


def _probability_columns(cohort: Cohort) -> list[str]:
    return [f"p_{name}" for name in cohort.classes]


def _prediction_rows(cohort: Cohort, plan: Plan, models: Sequence[Model]) -> Iterator[dict[str, Any]]:
    reported, fold_of = _reported(cohort, plan)
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


def _tidy_metrics(models: Sequence[Model]) -> list[dict[str, Any]]:
    rows = []
    for model in models:
        for metric, headline in model.headlines.items():
            mean = {"value": headline.value, "low": headline.low, "high": headline.high, "reason": headline.reason}
            scopes: dict[str, dict[str, Any]] = {"mean": mean}
            scopes |= {f"fold {name}": {"value": s.value, "reason": s.reason} for name, s in headline.folds.items()}
            scopes["pooled"] = {"value": headline.pooled.value, "reason": headline.pooled.reason}
            rows += [{"model": model.key, "metric": metric, "scope": scope, **row} for scope, row in scopes.items()]
    return rows


def _attention_csv(coords: NDArray[np.int64] | None, attention: NDArray[np.float32]) -> str:
    """Patch by patch: row in the feature file, level-0 corner where known, attention (sums to 1 over the slide)."""
    if coords is None:
        lines = ["row,attention", *(f"{row},{weight:.6g}" for row, weight in enumerate(attention.tolist()))]
    else:
        numbers = enumerate(zip(coords.tolist(), attention.tolist(), strict=True))
        lines = ["row,x,y,attention", *(f"{row},{x},{y},{weight:.6g}" for row, ((x, y), weight) in numbers)]
    return "\n".join(lines) + "\n"


def _curves(cohort: Cohort, plan: Plan, model: Model) -> list[figures.Curve]:
    """Folds of a binary task, else each class against the rest over all reported rows."""
    if cohort.binary:
        return _fold_curves(cohort, plan, model)
    reported, _ = _reported(cohort, plan)
    return _class_curves(cohort, cohort.label[reported], model.probability[reported])


def _fold_curves(cohort: Cohort, plan: Plan, model: Model) -> list[figures.Curve]:
    curves = []
    for fold in plan.folds:
        truth = cohort.label[fold.test]
        if len(np.unique(truth)) == 2:
            rates = metrics.roc(truth, model.probability[fold.test], 1)
            name = f"fold {fold.name}" if len(plan.folds) > 1 else "test"
            curves.append(figures.Curve(name, *rates, model.headlines["auroc"].folds[fold.name].value))
    return curves


def _class_curves(cohort: Cohort, truth: NDArray[np.int64], probability: Floats) -> list[figures.Curve]:
    curves = []
    for number, name in enumerate(cohort.classes):
        positive = (truth == number).astype(np.int64)
        if 0 < positive.sum() < len(positive):
            two = np.stack([1 - probability[:, number], probability[:, number]], axis=1)
            area = metrics.score("auroc", positive, two, ("rest", name)).value
            curves.append(figures.Curve(name, *metrics.roc(truth, probability, number), area))
    return curves


def _parts(cohort: Cohort, plan: Plan) -> list[evaluation.Part]:
    return [
        evaluation.Part(
            fold.name,
            name,
            len(np.unique(cohort.patient_id[members])),
            np.bincount(cohort.label[members], minlength=len(cohort.classes)).tolist(),
        )
        for fold in plan.folds
        for name, members in (("training", fold.train), ("validation", fold.validation), ("test", fold.test))
    ]


def _slide_results(cohort: Cohort, plan: Plan, models: Sequence[Model]) -> list[evaluation.SlideResult]:
    if cohort.level != "slide":
        return []
    reported, fold_of = _reported(cohort, plan)
    return [
        evaluation.SlideResult(
            str(cohort.slide_id[index]),
            cohort.classes[cohort.label[index]],
            fold,
            {model.key: float(model.probability[index, cohort.label[index]]) for model in models},
        )
        for index, fold in zip(reported.tolist(), fold_of.tolist(), strict=True)
    ]


def _provenance(identity: str, ids: Mapping[str, str]) -> list[tuple[str, str]]:
    installed = versions()
    names = [name for name in ("sgcl", "python", "torch", "scikit-learn") if name in installed]
    return [
        ("Result", identity),
        *((name.capitalize(), value) for name, value in ids.items()),
        ("Versions", ", ".join(f"{name} {installed[name]}" for name in names)),
    ]
