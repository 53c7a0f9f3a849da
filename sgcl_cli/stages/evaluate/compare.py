"""``sgcl evaluate --compare``: differences between results on identical splits, paired by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.evaluations import BASELINE, PATCH_COUNT, Evaluated
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.scores import comparison, intervals, measurements, metrics, survival
from sgcl_cli.probe.scores.comparison import ComparedResult, Difference
from sgcl_cli.probe.scores.reported import Reported
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.evaluate import answers, compare_page
from sgcl_cli.stages.evaluate.scores import HEADLINES

FORMAT = "sgcl.comparison/1"
ONE_TRAINING = (
    "each result is of one training of its encoder; no interval here covers the variation between training seeds, so train and "
    "compare several seeds before calling one way of training better"
)
_COLUMNS = ("model", "metric", "first", "second", "difference", "low", "high", "p", "p_holm", "reason")
_HINT = "evaluate both with the same --labels and --splits FILE"


def compare(config: EvaluateConfig, reporter: Reporter) -> Outcome:
    """Compare every model that all results have, except the two baselines, and write the comparison.

    Writes compare.json, compare.csv, compare.html, figures/forest.* and run.json under ``config.out``.

    :raises ConfigError: fewer than two folders, or one folder twice.
    :raises ArtefactError: a folder holds no finished evaluation.
    :raises LabelError: the results differ in rows, labels or splits; the message names the first difference.
    """
    record = RunRecord("compare", config)
    out = Path(config.out)
    opened = [Evaluated.open(folder) for folder in config.compare]
    names = _names(opened)
    for name, other in zip(names[1:], opened[1:], strict=True):
        _check_same(names[0], opened[0], name, other)
    result = opened[0].result
    shared = [key for key in result["models"] if all(key in one.result["models"] for one in opened)]
    shared = [key for key in shared if key not in (BASELINE, PATCH_COUNT)]
    if not shared:
        raise LabelError("the results have no model in common", "evaluate all with the same --models")
    titles = {key: str(result["models"][key]["name"]) for key in shared}
    found: dict[str, list[Difference]] = {}
    with reporter.task("comparing", len(shared), "model") as task:
        for key in shared:
            entries = [_entry(name, one, key) for name, one in zip(names, opened, strict=True)]
            found[key] = [
                difference
                for metric in entries[0].reported.metrics
                for difference in comparison.compare(
                    entries, metric, resamples=config.bootstrap, confidence=config.confidence, seed=config.seed
                )
            ]
            task.advance()
    found = _adjusted(found)
    metric = HEADLINES[result["task"]]
    compared = compare_page.Compared(
        config=config,
        names=names,
        opened=opened,
        titles=titles,
        found=found,
        metric=metric,
        answers=answers.answers(found, titles, metric, 1 - config.confidence),
        warnings=_warnings(names, opened),
    )
    content = _content(compared)
    outcome = Outcome(
        "evaluate",
        out,
        [*(("answer", sentence) for sentence in compared.answers), ("report", str(out / "compare.html"))],
        len(opened),
        warnings=list(compared.warnings),
        data={k: v for k, v in content.items() if k not in ("format", "warnings")},
        matrix=answers.matrix(found, titles, config.bootstrap),
    )
    for warning in compared.warnings:
        reporter.warn(warning)
    if not config.dry_run:
        _write(out, compared, content)
        inputs = {name: one.id for name, one in zip(names, opened, strict=True)}
        record.write(out, artefact=content["id"], inputs=inputs, outcome=outcome)
    return outcome


def _write(out: Path, compared: compare_page.Compared, content: Mapping[str, Any]) -> None:
    store.write_json(out / "compare.json", content)
    rows = [_row(key, one) for key, differences in compared.found.items() for one in differences]
    store.write_csv(out / "compare.csv", _COLUMNS, rows)
    pictures = compare_page.pictures(compared)
    for name, picture in pictures.items():
        for file, drawn in picture.files(name).items():
            store.write_bytes(out / "figures" / file, drawn)
    store.write_text(out / "compare.html", compare_page.rendered(compared, content, pictures))


def _adjusted(found: Mapping[str, Sequence[Difference]]) -> dict[str, list[Difference]]:
    """The differences with p adjusted by Holm's method over all pairs and models of a metric."""
    by_metric: dict[str, list[float]] = {}
    for differences in found.values():
        for one in differences:
            if one.p is not None:
                by_metric.setdefault(one.metric, []).append(one.p)
    adjusted = {metric: iter(comparison.holm(p)) for metric, p in by_metric.items()}
    return {
        key: [one if one.p is None else replace(one, adjusted=next(adjusted[one.metric])) for one in differences]
        for key, differences in found.items()
    }


def _warnings(names: Sequence[str], opened: Sequence[Evaluated]) -> list[str]:
    """The warnings of all results, each once and with the names of its results, and ``ONE_TRAINING``."""
    of: dict[str, list[str]] = {}
    for name, one in zip(names, opened, strict=True):
        for text in dict.fromkeys(one.warnings):
            of.setdefault(text, []).append(name)
    whose = {text: "all results" if len(mine) == len(names) else ", ".join(mine) for text, mine in of.items()}
    return [*(f"{mine}: {text}" for text, mine in whose.items()), ONE_TRAINING]


def _names(opened: Sequence[Evaluated]) -> list[str]:
    """Names of the results: the shortest ends of their paths that are all different.

    :raises ConfigError: fewer than two folders, or one folder twice.
    """
    if len(opened) < 2:
        raise ConfigError("--compare needs two results or more", "example: sgcl evaluate --compare a/ b/ --out c/")
    parts = [one.folder.resolve().parts for one in opened]
    if len(set(parts)) < len(parts):
        raise ConfigError("--compare names a folder twice", "give each result once")
    for length in range(1, max(map(len, parts)) + 1):
        names = [store.escaped("/".join(path[-length:])) for path in parts]  # figures require valid Unicode
        if len(set(names)) == len(names):
            break
    return names


def _check_same(first: str, one: Evaluated, second: str, other: Evaluated) -> None:
    """Check that two results have the same rows, divided in the same way.

    :raises LabelError: they have not.
    """
    for what in ("level", "task", "classes"):
        a, b = one.result.get(what), other.result.get(what)
        if a != b:
            raise LabelError(f"'{first}' and '{second}' differ in {what}: {a} and {b}", _HINT)
    if one.splits_id == other.splits_id:
        return
    rows = [
        {(row["slide_id"], row["patient_id"], row["fold"]): row["split"] for row in result.splits}
        for result in (one, other)
    ]
    apart = sorted(key for key in rows[0].keys() | rows[1].keys() if rows[0].get(key) != rows[1].get(key))
    slide, patient, fold = apart[0]
    parts = [side.get(apart[0], "absent") for side in rows]
    slides = len({key[0] for key in apart})
    raise LabelError(
        f"'{first}' and '{second}' have different splits ({one.splits_id[:12]}, {other.splits_id[:12]}): {slides} slides are "
        f"divided differently, first '{slide}' of patient '{patient}', in fold {fold} {parts[0]} and {parts[1]}",
        _HINT,
    )


def _entry(name: str, evaluated: Evaluated, key: str) -> ComparedResult:
    """The predictions of a model, ordered by slide and patch.

    :raises ArtefactError: predictions.csv is malformed.
    """
    with reading.understood(evaluated.folder / "predictions.csv", "evaluate again"):
        return _read_entry(name, evaluated, key)


def _read_entry(name: str, evaluated: Evaluated, key: str) -> ComparedResult:
    rows = [row for row in evaluated.predictions if row["model"] == key]
    rows.sort(key=lambda row: (row["slide_id"], int(row.get("row") or 0)))
    names = np.array([row["slide_id"] + (f"/{row['row']}" if row.get("row") else "") for row in rows])
    fold = np.array([row["fold"] for row in rows])
    patient = np.array([row["patient_id"] for row in rows])
    task = evaluated.result["task"]
    reported: Reported
    truth: Any
    if task == "regression":
        truth, value = (np.array([float(row[column]) for row in rows]) for column in ("label", "predicted"))
        reported = measurements.Values(truth, value, fold, patient)
    elif task == "survival":
        time, risk = (np.array([float(row[column]) for row in rows]) for column in ("time", "risk"))
        event = np.array([int(row["event"]) for row in rows], dtype=np.int64)
        truth = np.stack([time, event], axis=1)
        reported = survival.Risks(time, event, risk, fold, patient)
    else:
        classes: Sequence[str] = evaluated.result["classes"]
        number = {text: index for index, text in enumerate(classes)}
        truth = np.array([number[row["label"]] for row in rows], dtype=np.int64)
        probability = np.array([[float(row[f"p_{text}"]) for text in classes] for row in rows])
        reported = metrics.Predictions(truth, probability, fold, patient, classes)
    return ComparedResult(name, names, truth, reported)


def _row(key: str, one: Difference) -> dict[str, Any]:
    values = asdict(one)
    return {
        **{name: values[name] for name in ("metric", "first", "second", "low", "high", "p", "reason")},
        "model": key,
        "difference": one.value,
        "p_holm": one.adjusted,
    }


def _content(compared: compare_page.Compared) -> dict[str, Any]:
    config, opened = compared.config, compared.opened
    settings = {"bootstrap": config.bootstrap, "confidence": config.confidence, "seed": config.seed}
    return {
        "format": FORMAT,
        "id": store.artefact_id(FORMAT, settings, [one.id for one in opened]),
        "results": [{"name": name, "id": one.id} for name, one in zip(compared.names, opened, strict=True)],
        "answers": list(compared.answers),
        "metric": compared.metric,
        "warnings": list(compared.warnings),
        "splits": opened[0].splits_id,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "least_p": intervals.least_p(config.bootstrap),
        "differences": [_row(key, one) for key, differences in compared.found.items() for one in differences],
    }
