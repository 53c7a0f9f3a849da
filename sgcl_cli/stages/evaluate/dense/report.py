"""What ``sgcl evaluate --dense`` leaves: dense.json, dense.csv, a figure and the page."""

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
from sgcl_cli.report.page import Page, Picture, Section, Table
from sgcl_cli.stages.evaluate.dense.masks import Masks

_COLUMNS = ("scope", "slide_id", "group", "class", "pixels", "dice", "dice_low", "dice_high", "iou", "iou_low", "iou_high",
            "reason", "no_interval")  # fmt: skip
_SPOKEN = {"dice": "Dice", "iou": "IoU"}


@dataclass(frozen=True)
class Heads:
    """Of one encoder, by slide number: the pixels by truth and prediction, and what the commonest training class gives."""

    counts: dict[int, Counts]
    commonest: dict[int, Counts]
    fits: list[dict[str, Any]]


def content_of(
    config: EvaluateConfig, masks: Masks, card: EncoderCard, folds: int, found: Mapping[str, Heads]
) -> dict[str, Any]:
    """What dense.json holds besides format and id.

    :param found: under "head" the encoder's, under "random" that of random weights, if there is one.
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
    """(G, K, K), patients in the order of their names."""
    _, number = np.unique(masks.patient, return_inverse=True)
    total = np.zeros((number.max() + 1, len(masks.classes), len(masks.classes)), dtype=np.int64)
    for slide, one in counts.items():
        total[number[slide]] += one
    return total


def _plain_scores(classes: Sequence[str], counts: Counts) -> dict[str, Any]:
    """Dice and IoU of each class and their means, of pixels (K, K)."""
    found: dict[str, Any] = {"pixels": int(counts.sum()), "confusion": counts.tolist()}
    for metric, scores in dense.scores(counts).items():
        found[metric] = {
            name: {"value": score.value, "reason": score.reason} for name, score in zip(classes, scores, strict=True)
        }
        mean = dense.mean(scores)
        found[f"mean_{metric}"] = {"value": mean.value, "reason": mean.reason}
    return found


def _scores(config: EvaluateConfig, masks: Masks, counts: Counts) -> dict[str, Any]:
    """The same of all pixels together, from each patient's (G, K, K), with intervals."""
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
    """The mean scores of the first minus those of the second, resampled together."""
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
    for metric, spoken in _SPOKEN.items():
        mean = ("mean", [_spoken(one[f"mean_{metric}"]).replace(" (", "\n").rstrip(")") for one in scores])
        classes = [(name, [_number(one[metric][name]["value"]) for one in scores]) for name in scores[0][metric]]
        tables.append(Matrix(spoken, [*content["models"].values()], [mean, *classes]))
    first, *further = tables
    return Outcome(
        "evaluate", out, [], content["slides"], warnings=list(warnings), data=data, matrix=first, further=further
    )


def write(config: EvaluateConfig, masks: Masks, content: dict[str, Any], warnings: Sequence[str]) -> Outcome:
    """Write everything but run.json.

    :returns: the outcome, whose data is the content with the names of the files.
    """
    out = Path(config.out)
    with store.writing(out):
        (out / "run.json").unlink(missing_ok=True)
    store.write_json(out / "dense.json", content)
    store.write_csv(out / "dense.csv", _COLUMNS, list(_rows(content)))
    files = ["dense.json", "dense.csv", "report.html"]
    pictures = []
    if figures.AVAILABLE:
        drawn = figures.confusion("Pixels", np.array(content["scores"]["head"]["confusion"]), content["classes"])
        caption = "Pixels of all reported slides: rows are the truth, each row adds up to 100 %."
        pictures.append(Picture.of("Confusion of pixels", caption, drawn))
        for name, drawn_bytes in pictures[0].files("confusion_pixels").items():
            store.write_bytes(out / "figures" / name, drawn_bytes)
            files.append(f"figures/{name}")
    store.write_text(out / "report.html", page.render(_page(config, masks, content, pictures, warnings)))
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
                "no_interval": one["dice"].get("no_interval", "a slide stands for itself"),
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
        ("Left out together", content["left_out"], ""),
    ]
    if masks.uncounted:
        inferred.append(("Values that count nowhere", _uncounted(masks), "of the masks' pixels"))
    unconverged = [fit for fits in content["fits"].values() for fit in fits if not fit["converged"]]
    return Page(
        title=f"How well do feature maps tell {' from '.join(classes) if len(classes) == 2 else 'pixels apart'}?",
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
            *(f"a head that reports {', '.join(fit['reported'])} did not converge" for fit in unconverged),
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
    random = "“Random weights” is the same architecture, fed alike, without training. "
    if "random" not in content["models"]:
        random = ""
    return (
        f"The encoder is frozen. One logistic regression (scikit-learn's objective) on features of {content['layer']} at "
        f"about {config.dense_pixels:,} labelled pixels a slide, drawn at random within each patch, bilinear between the "
        "cells of the map; scores are bilinear between cells too, and a pixel's class is the highest score. C is chosen on a "
        f"training group held out where there are three, else it is 1. {content['left_out'].capitalize()} are left out in "
        "turn, so no slide is reported by a head that saw it or what is left out with it. Pixels of a patch that overlaps "
        f"another count twice. {random}Intervals, where there are any, resample {content['unit']} "
        f"{config.bootstrap:,} times and are conditional on the fitted heads."
    )


def _whole(content: Mapping[str, Any]) -> list[Table]:
    """Of each metric, models by classes."""
    tables = []
    for metric, spoken in _SPOKEN.items():
        rows = []
        for key, name in content["models"].items():
            scores = content["scores"][key]
            rows.append([name, _spoken(scores[f"mean_{metric}"]), *map(_spoken, scores[metric].values())])
        first = content["scores"]["head"]
        none = dict.fromkeys(s["no_interval"] for s in (*first[metric].values(), first[f"mean_{metric}"]))
        why = "; ".join(filter(None, none))
        note = "All pixels together. “Commonest class” says it everywhere." + (f" No interval: {why}." if why else "")
        tables.append(Table(spoken, ["Model", "Mean", *content["classes"]], rows, note))
    return tables


def _differences(content: Mapping[str, Any]) -> Table:
    rows = [
        [f"minus {content['models'][key]}", *(_signed(found[f"mean_{metric}"]) for metric in _SPOKEN)]
        for key, found in content["differences"].items()
    ]
    columns = [content["models"]["head"], *(f"{spoken}, mean" for spoken in _SPOKEN.values())]
    return Table("Difference", columns, rows, "Paired: both are counted on the same pixels.")


def _single(content: Mapping[str, Any]) -> Table:
    classes = content["classes"]
    columns = [f"{spoken}, {name}" for spoken in _SPOKEN.values() for name in (*classes, "mean")]
    rows = [
        [one["slide_id"], one["group"], one["pixels"]]
        + [s["value"] for m in _SPOKEN for s in (*one[m].values(), one[f"mean_{m}"])]
        for one in content["per_slide"]
    ]
    return Table("", ["Slide", "Left out with", "Pixels", *columns], rows, "Slides stand for themselves: no intervals.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spoken(score: Mapping[str, Any]) -> str:
    """``0.812 (0.765 to 0.850)``."""
    if score.get("low") is None:
        return _number(score["value"])
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _signed(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "–"
    ends = "" if entry["low"] is None else f" ({entry['low']:+.3f} to {entry['high']:+.3f})"
    return f"{entry['value']:+.3f}{ends}"
