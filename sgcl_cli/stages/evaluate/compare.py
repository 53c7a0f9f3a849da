"""``sgcl evaluate --compare``: is one result better than another, paired by patient on identical splits?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.evaluations import Evaluated
from sgcl_cli.artefacts.results import Outcome, RunRecord, check_free, versions
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.probe.scores import comparison, intervals, measurements, metrics, survival
from sgcl_cli.probe.scores.comparison import Difference, Entry
from sgcl_cli.probe.scores.reported import Reported
from sgcl_cli.progress import Reporter
from sgcl_cli.report import figures, page
from sgcl_cli.report.page import METRIC_NAMES, Page, Picture, Section, Table

FORMAT = "sgcl.comparison/1"
BASELINE = "majority"
_COLUMNS = ("model", "metric", "first", "second", "difference", "low", "high", "p", "p_holm", "reason")
_LOWER_IS_BETTER = ("mae",)
_SHOWN = ("auroc", "balanced_accuracy", "macro_f1", "accuracy", "c_index", "r2", "spearman")
_ONE_SEED = "each result is of one trained encoder: another seed of pretraining would move it, which neither interval nor p holds"
_HINT = "evaluate both with the same --labels and --splits FILE"


def compare(config: EvaluateConfig, reporter: Reporter) -> Outcome:
    """Compare every model that all folders have; writes compare.json, compare.csv, compare.html and run.json.

    :raises ConfigError: fewer than two folders, or two of one name.
    :raises ArtefactError: a folder holds no finished evaluation.
    :raises LabelError: other rows, labels or splits; the message says where they differ first.
    """
    record = RunRecord("compare", config)
    out = Path(config.out)
    check_free(out, "compare")
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
        (f"{titles[key]}: {METRIC_NAMES[one.metric]}, {one.first} minus {one.second}", spoken(one, config.bootstrap))
        for key in shared
        for one in found[key]
        if one.metric != "accuracy"
    ]
    warnings = _warnings(names, opened)
    answers = [_answer(titles[key], pair, 1 - config.confidence) for key in shared for pair in _pairs(found[key])]
    headline = [*(("Is one better?" if not row else "", answer) for row, answer in enumerate(answers)), *headline]
    content = _content(config, names, opened, found) | {"answers": answers, "warnings": warnings}
    data = {k: v for k, v in content.items() if k != "format"}
    outcome = Outcome("evaluate", out, headline, len(opened), warnings=warnings, data=data)
    if config.dry_run:
        return outcome
    store.write_json(out / "compare.json", content)
    store.write_csv(out / "compare.csv", _COLUMNS, [_row(key, one) for key in shared for one in found[key]])
    forests = _forests(found, titles, 100 * config.confidence)
    for name, picture in forests.items():
        for file, drawn in picture.files(f"forest_{name}").items():
            store.write_bytes(out / "figures" / file, drawn)
    store.write_text(out / "compare.html", page.render(_page(config, names, opened, titles, found, content, forests)))
    inputs = {name: one.id for name, one in zip(names, opened, strict=True)}
    record.write(out, artefact=content["id"], inputs=inputs, outcome=outcome)
    return outcome


def _pairs(differences: Sequence[Difference]) -> list[list[Difference]]:
    """Differences by pair of results, in their order."""
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for one in differences:
        pairs.setdefault((one.first, one.second), []).append(one)
    return list(pairs.values())


def _answer(title: str, pair: Sequence[Difference], level: float) -> str:
    """One sentence on a pair: who is better by which metrics, after Holm; where the data cannot tell; what has no p."""
    sides: dict[str, list[str]] = {"first": [], "second": [], "open": [], "none": []}
    for one in pair:
        if one.value is None or one.adjusted is None:
            sides["none"].append(_within_a_sentence(one.metric))
        elif one.adjusted >= level:
            sides["open"].append(_within_a_sentence(one.metric))
        else:
            sides["first" if (one.value > 0) != (one.metric in _LOWER_IS_BETTER) else "second"].append(
                _within_a_sentence(one.metric)
            )
    first, second = pair[0].first, pair[0].second
    told = [
        f"{better} is better than {worse} by {_enumerated(sides[side])}"
        for side, better, worse in (("first", first, second), ("second", second, first))
        if sides[side]
    ]
    if sides["open"]:
        told.append(f"{_enumerated(sides['open'])} cannot tell {'them' if told else f'{first} and {second}'} apart")
    if sides["none"]:
        told.append(f"{_enumerated(sides['none'])} {'has' if len(sides['none']) == 1 else 'have'} no interval")
    return f"{title}: {'; '.join(told)}."


def _within_a_sentence(metric: str) -> str:
    """The metric's name, beginning small unless it is an abbreviation."""
    name = METRIC_NAMES[metric]
    return name[0].lower() + name[1:] if name[1].islower() else name


def _enumerated(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def _warnings(names: Sequence[str], opened: Sequence[Evaluated]) -> list[str]:
    """Every warning of the results, those that all have once, and what a comparison of single encoders cannot say."""
    by_message: dict[str, list[str]] = {}
    for name, one in zip(names, opened, strict=True):
        for message in one.warnings:
            by_message.setdefault(message, []).append(name)
    told = [
        f"{'all results' if len(of) == len(opened) else ', '.join(of)}: {message}" for message, of in by_message.items()
    ]
    return [*told, _ONE_SEED]


def _forests(
    found: Mapping[str, Sequence[Difference]], titles: Mapping[str, str], confidence: float
) -> dict[str, Picture]:
    """Of each model a figure of its differences with their intervals; none without matplotlib, or without intervals."""
    pictures = {}
    for key, differences in found.items():
        marks = [
            figures.Mark(f"{METRIC_NAMES[one.metric]}: {one.first} − {one.second}", one.value, one.low, one.high)
            for one in differences
            if one.value is not None and one.low is not None and one.high is not None and one.metric in _SHOWN
        ]
        if marks and figures.AVAILABLE:
            caption = f"First minus second, with the {confidence:g} % interval; an interval that holds 0 cannot tell them apart."
            drawn = figures.forest(f"Differences, {titles[key]}", marks)
            pictures[key] = Picture.of(f"Differences, {titles[key]}", caption, drawn)
    return pictures


def spoken(one: Difference, resamples: int) -> str:
    """A difference in words: ``+0.021 (-0.010 to +0.052), p 0.18, after Holm 0.36``."""
    if one.value is None:
        return f"undefined: {one.reason}"
    if one.low is None or one.p is None:
        return f"{one.value:+.3f}, no interval: {one.reason}"
    adjusted = "" if one.adjusted in (None, one.p) else f", after Holm {_p(one.adjusted, resamples)}"
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}), p {_p(one.p, resamples)}{adjusted}"


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


def _entry(name: str, evaluated: Evaluated, key: str) -> Entry:
    """A model's rows in the order of slide and patch."""
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
    return Entry(name, names, truth, reported)


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
    forests: Mapping[str, Picture],
) -> Page:
    counts = opened[0].result["counts"]
    sections = [Section("Is one better?", notes=content["answers"])]
    for key, differences in found.items():
        drawn = [forests[key]] if key in forests else []
        sections.append(Section(titles[key], drawn, [_table(differences, config.bootstrap)], wide=True))
    methods = (
        f"Every result predicted the same rows in the same folds. Patients are resampled within each fold, stratified, "
        f"{config.bootstrap} times, n − 1 of n with weights n / (n − 1) (Rao and Wu, 1988); all results are scored on the same "
        "resampled patients, so what patients have in common "
        f"cancels out. The interval ({100 * config.confidence:g} %) and p (two-sided) are Student’s, with the standard error "
        "over the resamples, or that of leaving each patient out where this is larger, and Satterthwaite’s degrees of freedom. "
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
        warnings=content["warnings"],
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


def _table(differences: Sequence[Difference], resamples: int) -> Table:
    """What is asked for comes first, so that a narrow screen shows it; who is compared only where there are several pairs."""
    several = len({(one.first, one.second) for one in differences}) > 1
    rows = []
    for one in differences:
        told = [METRIC_NAMES[one.metric], _signed(one.value), _between(one), _p(one.p, resamples)]
        rows.append([*told, *([_p(one.adjusted, resamples), one.first, one.second] if several else [])])
    columns = ["Metric", "Difference", "Interval", "p", *(["p after Holm", "First", "Second"] if several else [])]
    first, second = ("first", "second") if several else (differences[0].first, differences[0].second)
    return Table("", columns, rows, f"Difference: {first} minus {second}.")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _p(value: float | None, resamples: int) -> str:
    """A p value, never smaller than the resamples can tell."""
    if value is None:
        return "–"
    least = intervals.least_p(resamples)
    return f"< {least:.1g}" if value <= least * (1 + 1e-9) else f"{value:.3g}"


def _between(one: Difference) -> str:
    return one.reason if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}"
