"""``sgcl evaluate --compare``: is one result better than another, paired by patient on identical splits?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.evaluations import Evaluated
from sgcl_cli.artefacts.results import Outcome, RunRecord, versions
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.scores import comparison, measurements, metrics, survival
from sgcl_cli.probe.scores.comparison import ComparedResult, Difference
from sgcl_cli.probe.scores.reported import Reported
from sgcl_cli.progress import Reporter
from sgcl_cli.report import page
from sgcl_cli.report.page import METRIC_NAMES, Page, Section, Table

FORMAT = "sgcl.comparison/1"
BASELINE = "majority"
_COLUMNS = ("model", "metric", "first", "second", "difference", "low", "high", "p", "p_holm", "reason")
_HINT = "evaluate both with the same --labels and --splits FILE"


def compare(config: EvaluateConfig, reporter: Reporter) -> Outcome:
    """Compare every model that all folders have; writes compare.json, compare.csv, compare.html and run.json.

    :raises ConfigError: fewer than two folders, or two of one name.
    :raises ArtefactError: a folder holds no finished evaluation.
    :raises LabelError: other rows, labels or splits; the message says where they differ first.
    """
    record = RunRecord("compare", config)
    out = Path(config.out)
    opened = [Evaluated.open(folder) for folder in config.compare]
    names = _names(opened)
    for name, other in zip(names[1:], opened[1:], strict=True):
        _check_same(names[0], opened[0], name, other)
    result = opened[0].result
    shared = [key for key in result["models"] if all(key in one.result["models"] for one in opened)]
    shared = [key for key in shared if key != BASELINE]
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
    headline = [
        (f"{titles[key]}: {METRIC_NAMES[one.metric]}, {one.second} minus {one.first}", spoken(one))
        for key in shared
        for one in found[key]
        if one.metric != "accuracy"
    ]
    content = _content(config, names, opened, found)
    data = {k: v for k, v in content.items() if k != "format"}
    outcome = Outcome("evaluate", out, headline, len(opened), data=data)
    if config.dry_run:
        return outcome
    store.write_json(out / "compare.json", content)
    store.write_csv(out / "compare.csv", _COLUMNS, [_row(key, one) for key in shared for one in found[key]])
    store.write_text(out / "compare.html", page.render(_page(config, names, opened, titles, found, content)))
    inputs = {name: one.id for name, one in zip(names, opened, strict=True)}
    record.write(out, artefact=content["id"], inputs=inputs, outcome=outcome)
    return outcome


def spoken(one: Difference) -> str:
    """A difference in words: ``+0.021 (-0.010 to +0.052), p 0.18, after Holm 0.36``."""
    if one.value is None:
        return f"undefined: {one.reason}"
    if one.low is None or one.p is None:
        return f"{one.value:+.3f}, no interval: {one.reason}"
    adjusted = "" if one.adjusted in (None, one.p) else f", after Holm {one.adjusted:.3g}"
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}), p {one.p:.3g}{adjusted}"


def _names(opened: Sequence[Evaluated]) -> list[str]:
    """Folders by the shortest ends of their paths that tell them apart."""
    if len(opened) < 2:
        raise ConfigError("--compare needs two results or more", "example: sgcl evaluate --compare a/ b/ --out c/")
    parts = [one.folder.resolve().parts for one in opened]
    if len(set(parts)) < len(parts):
        raise ConfigError("--compare names a folder twice", "give each result once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def _check_same(first: str, one: Evaluated, second: str, other: Evaluated) -> None:
    """Refuse results that were not made from the same rows, divided in the same way.

    :raises LabelError: they were not.
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
        f"'{first}' and '{second}' were not made on the same splits ({one.splits_id[:12]}, {other.splits_id[:12]}): "
        f"{slides} slides stand elsewhere, first '{slide}' of patient '{patient}', in fold {fold} {parts[0]} and {parts[1]}",
        _HINT,
    )


def _entry(name: str, evaluated: Evaluated, key: str) -> ComparedResult:
    """A model's rows in the order of slide and patch.

    :raises ArtefactError: the tables do not hold what an evaluation writes.
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


def _content(
    config: EvaluateConfig, names: Sequence[str], opened: Sequence[Evaluated], found: Mapping[str, Sequence[Difference]]
) -> dict[str, Any]:
    settings = {"bootstrap": config.bootstrap, "confidence": config.confidence, "seed": config.seed}
    return {
        "format": FORMAT,
        "id": store.artefact_id(FORMAT, settings, [one.id for one in opened]),
        "results": [{"name": name, "id": one.id} for name, one in zip(names, opened, strict=True)],
        "splits": opened[0].splits_id,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "differences": [_row(key, one) for key in found for one in found[key]],
    }


def _page(
    config: EvaluateConfig,
    names: Sequence[str],
    opened: Sequence[Evaluated],
    titles: Mapping[str, str],
    found: Mapping[str, Sequence[Difference]],
    content: Mapping[str, Any],
) -> Page:
    counts = opened[0].result["counts"]
    sections = []
    for key, differences in found.items():
        rows = [
            [
                METRIC_NAMES[one.metric],
                one.first,
                one.second,
                _signed(one.value),
                _between(one),
                _p(one.p),
                _p(one.adjusted),
            ]
            for one in differences
        ]
        reasons = sorted({one.reason for one in differences if one.reason})
        columns = ["Metric", "First", "Second", "Second minus first", "Interval", "p", "p after Holm"]
        sections.append(Section(titles[key], tables=[Table("", columns, rows)], notes=reasons))
    methods = (
        "Every result predicted the same rows in the same folds. Patients are resampled within each fold, or once for all "
        "repetitions where several report a patient, stratified, "
        f"{config.bootstrap} times; all results are scored on the same resampled patients, so what patients have in common "
        f"cancels out. The interval ({100 * config.confidence:g} %) is between percentiles of the difference of the headlines, "
        "p is two-sided, from the distance of resampled differences from the difference itself (Efron and Tibshirani, 1993). "
        "Holm’s correction counts the pairs of one metric and model, not metrics or models. Intervals are conditional on the "
        "fitted models."
    )
    return Page(
        title=f"Is one better? {', '.join(names)}",
        facts=[
            f"{len(names)} results",
            f"{counts['slides']} slides",
            f"{counts['patients']} patients",
            f"{counts['folds']} folds",
        ],
        inferred=[("Splits", opened[0].splits_id, "equal in all")],
        models={},
        confidence=config.confidence,
        folds=counts["folds"],
        warnings=[],
        methods=[methods],
        command=config.command_line(),
        provenance=[
            *((name, one.id) for name, one in zip(names, opened, strict=True)),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ],
        sections=sections,
        data=content,
        kicker="sgcl evaluate --compare",
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _between(one: Difference) -> str:
    return "" if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}"
