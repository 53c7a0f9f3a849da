"""Results of ``sgcl evaluate --dense``: dense.json, dense.csv, a figure and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.results import Matrix, Outcome, versions
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.models import dense
from sgcl_cli.probe.models.dense import Counts
from sgcl_cli.probe.scores import intervals
from sgcl_cli.report import figures, page
from sgcl_cli.report.numbers import with_interval
from sgcl_cli.report.page import Page, Picture, Section, Table
from sgcl_cli.stages.evaluate.dense.masks import Masks

_COLUMNS = ("scope", "slide_id", "group", "class", "pixels", "dice", "dice_low", "dice_high", "iou", "iou_low", "iou_high",
            "reason", "no_interval")  # fmt: skip
_METRIC_NAMES = {"dice": "Dice", "iou": "IoU"}


@dataclass(frozen=True)
class Heads:
    """Results of the heads of one encoder.

    :ivar counts: by slide number, pixels by truth and prediction, (K, K).
    :ivar commonest: the same where every pixel is predicted to be of the commonest training class.
    :ivar fits: details of each fold, as JSON values.
    """

    counts: dict[int, Counts]
    commonest: dict[int, Counts]
    fits: list[dict[str, Any]]


def content_of(
    config: EvaluateConfig, masks: Masks, card: EncoderCard, folds: int, found: Mapping[str, Heads]
) -> dict[str, Any]:
    """The content of dense.json, except format and id.

    :param folds: number of folds.
    :param found: results of the encoder as ``head``, and of random weights, where available, as ``random``.
    """
    of_slides = {key: heads.counts for key, heads in found.items()} | {"majority": found["head"].commonest}
    groups = {key: _by_patient(masks, counts) for key, counts in of_slides.items()}
    return {
        "classes": list(masks.classes),
        "slides": len(masks.slides),
        "patients": len(np.unique(masks.patient)),
        "unit": masks.unit,
        "left_out": masks.left_out,
        "groups": len(np.unique(masks.group)),
        "folds": folds,
        "uncounted": {str(value): share for value, share in masks.uncounted.items()},
        "encoder": {"name": card.name, "sha256": card.sha256},
        "layer": config.dense_layer or "the last layer",
        "models": {key: _name(key, card.name) for key in of_slides},
        "fits": {key: heads.fits for key, heads in found.items()},
        "scores": {key: _scores(config, masks, counts) for key, counts in groups.items()},
        "differences": {
            key: _difference(config, masks, groups["head"], counts) for key, counts in groups.items() if key != "head"
        },
        "per_slide": [
            {"slide_id": slide.file.slide_id, "group": slide.group}
            | _plain_scores(masks.classes, found["head"].counts[slide.number])
            for slide in masks.slides
        ],
    }


def _name(key: str, encoder: str) -> str:
    return {
        "head": f"Linear head, {encoder}",
        "random": "Linear head, random weights",
        "majority": "Commonest class",
    }[key]


def _by_patient(masks: Masks, counts: Mapping[int, Counts]) -> Counts:
    """Pixels by truth and prediction of each of G patients, in the order of their names: (G, K, K)."""
    _, number = np.unique(masks.patient, return_inverse=True)
    total = np.zeros((number.max() + 1, len(masks.classes), len(masks.classes)), dtype=np.int64)
    for slide, one in counts.items():
        total[number[slide]] += one
    return total


def _plain_scores(classes: Sequence[str], counts: Counts) -> dict[str, Any]:
    """Dice and IoU of each class and their means, from pixels by truth and prediction (K, K)."""
    found: dict[str, Any] = {"pixels": int(counts.sum()), "confusion": counts.tolist()}
    for metric, scores in dense.scores(counts).items():
        found[metric] = {
            name: {"value": score.value, "reason": score.reason} for name, score in zip(classes, scores, strict=True)
        }
        mean = dense.mean(scores)
        found[f"mean_{metric}"] = {"value": mean.value, "reason": mean.reason}
    return found


def _scores(config: EvaluateConfig, masks: Masks, counts: Counts) -> dict[str, Any]:
    """Dice and IoU over all pixels, with intervals, from those of each patient (G, K, K)."""
    found = _plain_scores(masks.classes, counts.sum(0))
    found_intervals = dense.intervals(
        counts,
        masks.classes,
        unit=masks.unit,
        resamples=config.bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    for metric, of_classes in found_intervals.items():
        scores = [*found[metric].values(), found[f"mean_{metric}"]]
        for score, one in zip(scores, of_classes, strict=True):
            score |= {"low": one.low, "high": one.high, "no_interval": one.reason}
    return found


def _difference(config: EvaluateConfig, masks: Masks, first: Counts, second: Counts) -> dict[str, Any]:
    """Mean scores of the first minus those of the second, with intervals from the same resamples of both."""
    settings: dict[str, Any] = {"unit": masks.unit, "resamples": config.bootstrap, "confidence": config.confidence}
    found = {}
    whole = [dense.scores(counts.sum(0)) for counts in (first, second)]
    why = dense.intervals(first, masks.classes, **settings, seed=config.seed)
    draws = [dense.resampled(counts, config.bootstrap, config.seed) for counts in (first, second)]
    for metric in dense.METRICS:
        a, b = (dense.mean(scores[metric]).value for scores in whole)
        entry: dict[str, Any] = {"value": None if a is None or b is None else a - b, "low": None, "high": None}
        entry["no_interval"] = why[metric][-1].reason
        if not entry["no_interval"]:
            one = intervals.difference(draws[0][metric][-1] - draws[1][metric][-1], config.confidence).interval
            entry |= {"low": one.low, "high": one.high, "no_interval": one.reason}
        found[f"mean_{metric}"] = entry
    return found


def outcome_of(out: Path, content: Mapping[str, Any], warnings: Sequence[str], data: dict[str, Any]) -> Outcome:
    """The outcome, with a table for each metric: the mean over classes and the classes, by models."""
    scores = [content["scores"][key] for key in content["models"]]
    tables = []
    for metric, metric_name in _METRIC_NAMES.items():
        mean = ("mean", [_score_text(one[f"mean_{metric}"], form="{}\n{} to {}") for one in scores])
        classes = [(name, [_number(one[metric][name]["value"]) for one in scores]) for name in scores[0][metric]]
        tables.append(Matrix(metric_name, [*content["models"].values()], [mean, *classes]))
    first, *further = tables
    return Outcome(
        "evaluate", out, [], content["slides"], warnings=list(warnings), data=data, matrix=first, further=further
    )


def write(config: EvaluateConfig, masks: Masks, content: dict[str, Any], warnings: Sequence[str]) -> Outcome:
    """Write all files except run.json.

    :returns: the outcome; its data are ``content`` and the names of the files.
    """
    out = Path(config.out)
    with store.writing(out):
        (out / "run.json").unlink(missing_ok=True)
    store.write_json(out / "dense.json", content)
    store.write_csv(out / "dense.csv", _COLUMNS, list(_rows(content)))
    files = ["dense.json", "dense.csv", "report.html"]
    drawn = figures.confusion("Pixels", np.array(content["scores"]["head"]["confusion"]), content["classes"])
    caption = "Pixels of all reported slides: rows are the truth, each row adds up to 100 %."
    picture = Picture.of("Confusion of pixels", caption, drawn)
    for name, drawn_bytes in picture.files("confusion_pixels").items():
        store.write_bytes(out / "figures" / name, drawn_bytes)
        files.append(f"figures/{name}")
    store.write_text(out / "report.html", page.render(_page(config, masks, content, [picture], warnings)))
    data = {key: value for key, value in content.items() if key != "format"} | {"files": files}
    return outcome_of(out, content, warnings, data)


def _rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    scopes: list[tuple[dict[str, str], Mapping[str, Any]]] = [
        ({"scope": key, "slide_id": "", "group": ""}, scores) for key, scores in content["scores"].items()
    ]
    scopes += [
        ({"scope": "slide", "slide_id": one["slide_id"], "group": one["group"]}, one) for one in content["per_slide"]
    ]
    for scope, scores in scopes:
        for number, name in enumerate(content["classes"]):
            one = {metric: scores[metric][name] for metric in dense.METRICS}
            yield {
                **scope,
                "class": name,
                "pixels": sum(scores["confusion"][number]),
                "reason": one["dice"]["reason"],
                "no_interval": one["dice"].get("no_interval", "a single slide"),
                **{metric: score["value"] for metric, score in one.items()},
                **{f"{metric}_{end}": score.get(end) for metric, score in one.items() for end in ("low", "high")},
            }


def _page(
    config: EvaluateConfig,
    masks: Masks,
    content: Mapping[str, Any],
    pictures: Sequence[Picture],
    warnings: Sequence[str],
) -> Page:
    classes = content["classes"]
    inferred = [
        ("Classes", ", ".join(classes), "" if config.mask_values else "the masks' values"),
        ("Left out in turn", content["left_out"], ""),
    ]
    if masks.uncounted:
        inferred.append(("Values without a class", _uncounted(masks), "of the pixels of the masks"))
    unconverged = [fit for fits in content["fits"].values() for fit in fits if not fit["converged"]]
    return Page(
        title=f"Segmentation from feature maps: {' and '.join(classes) if len(classes) == 2 else f'{len(classes)} classes'}",
        facts=[
            f"{content['slides']} slides",
            f"{content['groups']} {content['left_out']} left out in {content['folds']} folds",
            f"encoder {content['encoder']['name']}, {content['layer']}",
        ],
        inferred=inferred,
        models={},
        confidence=config.confidence,
        folds=content["folds"],
        warnings=[
            *warnings,
            *(f"the head tested on {', '.join(fit['reported'])} did not converge" for fit in unconverged),
        ],
        methods=[_methods(config, content)],
        command=config.command_line(),
        provenance=[
            ("Result", content["id"]),
            ("Encoder", content["encoder"]["sha256"]),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ],
        sections=[
            Section("All reported slides", pictures, [*_whole(content), _differences(content)]),
            Section("Slide by slide", tables=[_single(content)]),
        ],
        data=content,
        kicker="sgcl evaluate --dense",
    )


def _uncounted(masks: Masks) -> str:
    return ", ".join(f"{value} ({share:.1%})" for value, share in masks.uncounted.items())


def _methods(config: EvaluateConfig, content: Mapping[str, Any]) -> str:
    random = "“Random weights” is the same architecture with the same input, but without training. "
    if "random" not in content["models"]:
        random = ""
    return (
        f"The encoder is frozen. The head is one logistic regression (scikit-learn's objective) on features of "
        f"{content['layer']} at about {config.dense_pixels:,} labelled pixels per slide, drawn at random within each patch. "
        "Features and scores are interpolated bilinearly between the cells of the map; a pixel is predicted to be of the class "
        "with the highest score. C is chosen on one held-out training group if there are at least three, else it is 1. "
        f"{content['left_out'].capitalize()} are left out in turn, so no head is tested on a slide, patient or site that it was "
        f"fitted on. Pixels in the overlap of patches count more than once. {random}Intervals resample {content['unit']} "
        f"{config.bootstrap:,} times and are conditional on the fitted heads."
    )


def _whole(content: Mapping[str, Any]) -> list[Table]:
    """For each metric a table of models by classes."""
    tables = []
    for metric, metric_name in _METRIC_NAMES.items():
        rows = []
        for key, name in content["models"].items():
            scores = content["scores"][key]
            rows.append([name, _score_text(scores[f"mean_{metric}"]), *map(_score_text, scores[metric].values())])
        first = content["scores"]["head"]
        none = dict.fromkeys(s["no_interval"] for s in (*first[metric].values(), first[f"mean_{metric}"]))
        why = "; ".join(filter(None, none))
        note = "All pixels together. “Commonest class” predicts the commonest training class everywhere."
        note += f" No interval: {why}." if why else ""
        tables.append(Table(metric_name, ["Model", "Mean", *content["classes"]], rows, note))
    return tables


def _differences(content: Mapping[str, Any]) -> Table:
    rows = [
        [f"minus {content['models'][key]}", *(_signed(found[f"mean_{metric}"]) for metric in _METRIC_NAMES)]
        for key, found in content["differences"].items()
    ]
    columns = [content["models"]["head"], *(f"{metric_name}, mean" for metric_name in _METRIC_NAMES.values())]
    return Table("Difference", columns, rows, "Paired: both models are scored on the same pixels.")


def _single(content: Mapping[str, Any]) -> Table:
    classes = content["classes"]
    columns = [f"{metric_name}, {name}" for metric_name in _METRIC_NAMES.values() for name in (*classes, "mean")]
    rows = [
        [one["slide_id"], one["group"], one["pixels"]]
        + [s["value"] for m in _METRIC_NAMES for s in (*one[m].values(), one[f"mean_{m}"])]
        for one in content["per_slide"]
    ]
    return Table("", ["Slide", "Left out with", "Pixels", *columns], rows, "Single slides have no intervals.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _score_text(score: Mapping[str, Any], form: str = "{} ({} to {})") -> str:
    """A score as text: ``0.812 (0.765 to 0.850)``."""
    if score["value"] is None:
        return "–"
    return with_interval(score["value"], score.get("low"), score.get("high"), form=form)


def _signed(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "–"
    return with_interval(entry["value"], entry["low"], entry["high"], sign="+")
