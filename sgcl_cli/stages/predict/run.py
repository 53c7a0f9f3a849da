"""``sgcl predict``: applies the models of an evaluation to features of other slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import models, store
from sgcl_cli.artefacts.features import FeatureFile, FeatureSet, open_features
from sgcl_cli.artefacts.labels import Columns, read_labels
from sgcl_cli.artefacts.results import Outcome, RunRecord, check_free, understood
from sgcl_cli.artefacts.spelling import groups_in_quotes, listed, lookalikes, same_numbers
from sgcl_cli.config import PredictConfig
from sgcl_cli.engine import runtime
from sgcl_cli.engine.ranks import sole_writer
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.probe.data.patients import alike
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.stages.evaluate import patch_scores
from sgcl_cli.stages.evaluate.keep import REFIT, identity_of, made_by
from sgcl_cli.stages.evaluate.stored import stored_result
from sgcl_cli.stages.kept_models import check_same_encoder, is_fitted_on
from sgcl_cli.stages.predict import page, pictures, shift, tables
from sgcl_cli.stages.predict.applied import Applied, Rows, apply

FORMAT = "sgcl.predictions/1"
_NAMED = 3


def predict(config: PredictConfig, reporter: Reporter | None = None) -> Outcome:
    """Predict every slide (or patch) of a folder of features.

    Writes predictions.csv (mean and standard deviation over folds), folds.csv (each fold), attention/ and scores/ for models
    of slides, maps/ for models of patches, predictions.html and run.json under ``config.out``. Folds that were fitted on a
    slide, or on another slide of its patient, are not used for it unless all were.

    :raises ConfigError: features of another encoder, width or resolution, or settings that contradict the result.
    :raises LabelError: no slide has patches, or --labels is malformed.
    :raises ArtefactError: the result has no models, files cannot be read or written, or another run uses the folder.
    """
    check_free(Path(config.out), "predict")
    with sole_writer(Path(config.out), dry_run=config.dry_run):
        return _predict(config, reporter or Silent())


def _predict(config: PredictConfig, reporter: Reporter) -> Outcome:
    record, out, result = RunRecord("predict", config), Path(config.out), Path(config.result)
    card = models.read_card(result)
    features = open_features(config.features)
    found = made_by(features.files[0])
    warnings = check_same_encoder(card, found, config.features, allow_mpp=config.allow_mpp)
    ids = {"result": str(card["result"]), "features": features.id}
    patients, unknown = _patients(config, card, features)
    warnings += unknown
    if config.labels is not None:
        ids["labels"] = store.artefact_id("patients", {}, [f"{slide}={one}" for slide, one in sorted(patients.items())])
    stored = stored_result(out, config, ids)
    if stored is not None:
        reporter.note(f"{out} is complete under the same settings and inputs; nothing to do")
        data, warnings = stored
        for warning in warnings:
            reporter.warn(warning)
        with understood(out):
            return _outcome(out, data, warnings)
    keys, folds = _chosen_models(card, config), _chosen_folds(card, config)
    files, empty = _with_patches(features)
    if empty:
        warnings.append(f"{len(empty)} slides have no patches and are left out: {listed(empty, _NAMED)}")
    rows = Rows.of(files, card["level"])
    fitted = np.array(
        [[is_fitted_on(card["folds"][fold], file.slide_id, identity_of(file)) for file in files] for fold in folds]
    )
    warnings += _seen(fitted, files)
    related = ~fitted & [
        [patients.get(file.slide_id) in card["folds"][fold]["patients"] for file in files] for fold in folds
    ]
    warnings += _seen(related, files, "other slides of the patients of ")
    fitted |= related
    unseen = ~fitted | fitted.all(axis=0)
    if config.dry_run:
        return Outcome(
            "predict", out, [("models", ", ".join(keys)), ("rows", str(len(rows)))], len(files), warnings=warnings
        )
    for warning in warnings:
        reporter.warn(warning)
    device = runtime.start(config.device, "fp32", config.threads).device
    applied: dict[str, Applied] = {}
    used_models: dict[str, models.Kept] = {}
    scored = _scoring_model(card, keys) if rows.row is None and config.scores else None
    used, outputs = unseen[:, rows.file_of], max(1, len(card["classes"]))
    with reporter.task("predicting", len(keys), "model") as bar:
        for key in keys:
            kept = _read(result, card, key)
            kept = models.Kept(kept.name, kept.view, {fold: kept.folds[fold] for fold in folds})
            used_models[key] = kept
            applied[key] = apply(kept, rows, used, device, outputs, patches=key == scored)
            bar.advance()
    for warning in shift.warnings_of(rows, {**used_models, **_further_references(result, card, used_models)}):
        reporter.warn(warning)
        warnings.append(warning)
    return _write(config, card, rows, fitted, applied, warnings=warnings, ids=ids, record=record)


def _further_references(
    result: Path, card: Mapping[str, Any], used: Mapping[str, models.Kept]
) -> dict[str, models.Kept]:
    """A linear model of the result to compare the features with, if none of the used models is one; empty if none can be read."""
    if any(shift.is_reference(kept) for kept in used.values()):
        return {}
    for key in card["models"].keys() - used.keys():
        with suppress(ArtefactError):
            if shift.is_reference(kept := _read(result, card, key)):
                return {key: kept}
    return {}


def _read(result: Path, card: Mapping[str, Any], key: str) -> models.Kept:
    """A model of the result.

    :raises ArtefactError: its file is missing or damaged.
    """
    path = result / models.FOLDER / f"{key}.safetensors"
    if not path.is_file():
        raise ArtefactError(
            f"the model {path} is missing", f"evaluate again with --overwrite, or leave {key} out of --models"
        )
    return models.read(result, card, key)


def _write(
    config: PredictConfig,
    card: Mapping[str, Any],
    rows: Rows,
    fitted: NDArray[np.bool_],
    applied: Mapping[str, Applied],
    *,
    warnings: list[str],
    ids: Mapping[str, str],
    record: RunRecord,
) -> Outcome:
    out = Path(config.out)
    with store.writing(out):
        (out / "run.json").unlink(missing_ok=True)
        for path in [path for pattern in pictures.FILES for path in out.glob(pattern)]:
            path.unlink()
    place, values = tables.places(rows), tables.columns(card)
    columns = [*place, "model", *values, *tables.spreads(card), "folds"]
    store.write_csv(out / "predictions.csv", columns, list(tables.ensemble(card, rows, applied)))
    columns = [*place, "model", "fold", "fitted_on", *values]
    store.write_csv(out / "folds.csv", columns, list(tables.each(card, rows, fitted, applied)))
    drawn = pictures.draw(config, card, rows, applied)
    html = page.render(config, card, rows, applied, drawn.sections, warnings=warnings, ids=ids)
    store.write_text(out / "predictions.html", html)
    files = ["predictions.csv", "folds.csv", "predictions.html", *drawn.files]
    identity = store.artefact_id(FORMAT, config.affecting(), [f"{k}={v}" for k, v in sorted(ids.items())])
    data = {
        "format": FORMAT,
        "id": identity,
        "level": card["level"],
        "task": card["task"],
        "classes": card["classes"],
        "counts": {"rows": len(rows), "slides": len(rows.files)},
        "models": {key: one.name for key, one in applied.items()},
        "folds": [*next(iter(applied.values())).folds],
        "predicted": tables.summary(card, applied),
        "files": files,
    }
    kept = {name: value for name, value in data.items() if name != "format"}
    outcome = _outcome(out, kept, warnings)
    record.write(out, artefact=identity, inputs=ids, outcome=outcome)
    return outcome


def _chosen_models(card: Mapping[str, Any], config: PredictConfig) -> list[str]:
    known = [*card["models"]]
    if config.models is None:
        return known
    asked = [name.strip() for name in config.models.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        wrong = f"no model of the result: '{unknown[0]}'" if unknown else "no model"
        raise ConfigError(f"--models {config.models} names {wrong}", f"there are {', '.join(known)}")
    return [*dict.fromkeys(asked)]


def _scoring_model(card: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The model that scores patches of slides; None where none can."""
    kinds = {}
    for key in keys:
        entry = card["models"][key]
        fit = next(iter(entry["folds"].values()))[0]
        kinds[key] = (fit["kind"], fit["settings"], entry["view"])
    return patch_scores.model_of(kinds, card["attention_model"])


def _chosen_folds(card: Mapping[str, Any], config: PredictConfig) -> list[str]:
    """The folds of the models to average, or the single fit on all patients.

    :raises ConfigError: --use all, but the evaluation was made without --refit.
    """
    folds = [*card["folds"]]
    refitted = REFIT in folds
    if config.use == "all" and not refitted:
        raise ConfigError(
            f"{config.result} has no models of all patients", "evaluate again with --refit, or --use folds"
        )
    if refitted and config.use != "folds":
        return [REFIT]
    return [fold for fold in folds if fold != REFIT]


def _with_patches(features: FeatureSet) -> tuple[tuple[FeatureFile, ...], list[str]]:
    """Files with patches, and ids of slides without.

    :raises LabelError: no slide has patches.
    """
    files = tuple(file for file in features.files if len(file))
    if not files:
        raise LabelError(f"no slide of {features.folder} has patches", "tile and embed slides with tissue")
    return files, [file.slide_id for file in features.files if not len(file)]


def _patients(config: PredictConfig, card: Mapping[str, Any], features: FeatureSet) -> tuple[dict[str, str], list[str]]:
    """Patients of the slides from --labels, empty where the evaluation had none; and warnings.

    :raises LabelError: the table is malformed, or has no patient_id.
    """
    slides = [file.slide_id for file in features.files]
    known = bool(card.get("patients_known"))
    fitted = {slide for fold in card["folds"].values() for slide in fold["slides"]}
    warnings = _spelled_alike("slides", {*slides}, fitted)
    if config.labels is not None:
        table = read_labels(config.labels, Columns("slide_id", None), slides)
        if not table.has_patients:
            raise LabelError(
                f"the table {config.labels} has no column 'patient_id'", "leave --labels out, or add the column"
            )
        if not known:
            return {}, [
                *warnings,
                "patients are not compared: the evaluation had no patient_id, so each slide counted as a patient",
            ]
        given = {row.slide_id: row.patient_id for row in table.rows if row.slide_id not in table.without_patient}
        absent = [slide for slide in slides if slide not in given]
        few = listed(absent, _NAMED)
        left = (
            f"the patients of {len(absent)} slides are not compared, because {config.labels} does not have them: {few}"
        )
        patients = {patient for fold in card["folds"].values() for patient in fold["patients"]}
        warnings += _spelled_alike("patients", {*given.values()}, patients)
        return given, [*warnings, left] if absent else warnings
    groups = [group for group in alike({*slides, *fitted}) if not fitted.isdisjoint(group) and {*group} - fitted]
    if not groups:
        return {}, warnings
    new = sorted({slide for group in groups for slide in group} - fitted)
    look = f"ids of {len(new)} slides look like those of patients that models were fitted on: {listed(new, _NAMED)}"
    return {}, [*warnings, f"{look}; with --labels and its column patient_id such models are not used"]


def _spelled_alike(what: str, new: set[str], fitted: set[str]) -> list[str]:
    """A warning of names that differ from those fitted on only in case, blanks or the form of a number; empty without."""
    every = new | fitted
    groups = [group for group in (*lookalikes(every), *same_numbers(every)) if not fitted.isdisjoint(group)]
    groups = [group for group in groups if {*group} - fitted]
    if not groups:
        return []
    shown = groups_in_quotes(groups, _NAMED)
    return [f"{what} spelled like those that models were fitted on count as different: {shown}"]


def _seen(fitted: NDArray[np.bool_], files: Sequence[FeatureFile], what: str = "") -> list[str]:
    """Warnings about models that were fitted on the slides to predict, or on other slides of their patients.

    :param fitted: bool (F, files), whether a fold was fitted on a slide, or on one of its patient.
    :param what: text before the number of slides.
    """
    count = fitted.sum(axis=0).tolist()
    by_all = [file.slide_id for file, folds in zip(files, count, strict=True) if folds == len(fitted)]
    by_some = [file.slide_id for file, folds in zip(files, count, strict=True) if 0 < folds < len(fitted)]
    found = []
    if by_all:
        found.append(
            f"every model was fitted on {what}{len(by_all)} of these {len(files)} slides, so their predictions are no measure of "
            f"accuracy: {listed(by_all, _NAMED)}"
        )
    if by_some:
        found.append(
            f"some folds were fitted on {what}{len(by_some)} of these {len(files)} slides, for which only the other folds are "
            f"used: {listed(by_some, _NAMED)}"
        )
    return found


def _closing(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("slides", str(data["counts"]["slides"]))]
    if data["level"] == "patch":
        rows.append(("patches", str(data["counts"]["rows"])))
    return [*rows, ("folds", ", ".join(data["folds"]))]


def _outcome(out: Path, data: dict[str, Any], warnings: list[str]) -> Outcome:
    """The outcome, with a table of models by classes, or by what is lowest, median and highest of their predictions."""
    matrix = tables.matrix(data)
    return Outcome(
        "predict",
        out,
        [*_closing(data), ("report", str(out / "predictions.html"))],
        total=data["counts"]["slides"],
        warnings=warnings,
        data=data,
        matrix=matrix,
    )
