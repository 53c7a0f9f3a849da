"""The report of ``sgcl evaluate`` and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.results import versions
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data import cohort as cohorts
from sgcl_cli.probe.data.audit import ledger_rows
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.probe.models.plane import principal_plane
from sgcl_cli.report import evaluation, learning, page
from sgcl_cli.report.page import Picture, Section
from sgcl_cli.stages.evaluate import captions, tables
from sgcl_cli.stages.evaluate.figures import figure_data

if TYPE_CHECKING:
    from sgcl_cli.stages.evaluate.attention import Seen

FIGURES = (
    "figures/*.png",
    "figures/*.svg",
    "figures/montage_*.jpg",
    *(f"{folder}/*.{kind}" for folder in ("attention", "scores") for kind in ("csv", "jpg")),
    "models/*",
)
_MOST_POINTS = 2000


@dataclass(frozen=True)
class Finished:
    """A finished evaluation, from which the report is made.

    :ivar config: the settings.
    :ivar cohort: the rows that were evaluated.
    :ivar plan: their division into folds.
    :ivar result: the content of metrics.json.
    :ivar predictions: rows of predictions.csv.
    :ivar attention: by slide, (N,).
    :ivar patches: scores of patches by slide, (N, K).
    :ivar inferred: what was inferred, as (what, value, reason).
    :ivar ledger: numbers of slides, from the audit.
    :ivar warnings: shown at the top.
    :ivar ids: identities of the inputs, by name.
    :ivar efficiency: label-efficiency curves; None without.
    """

    config: EvaluateConfig
    cohort: Cohort
    plan: Plan
    result: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]
    attention: Mapping[str, NDArray[np.float32]]
    patches: Mapping[str, NDArray[np.float64]]
    inferred: Sequence[tuple[str, str, str]]
    ledger: Mapping[str, Any]
    warnings: Sequence[str]
    ids: Mapping[str, str]
    efficiency: evaluation.Efficiency | None = None


def write_report(out: Path, finished: Finished) -> list[str]:
    """Write report.html, figures/, attention/ and scores/, and return the names of the files.

    :raises ConfigError: --patches holds no patches of any slide, or --slides none of the slides.
    """
    cohort, result = finished.cohort, finished.result
    files, sections = _heatmaps(out, finished)
    drawn = evaluation.Evaluation(
        result=result,
        inferred=finished.inferred,
        warnings=finished.warnings,
        parts=parts_of(cohort, finished.plan),
        figure_data=figure_data(result, finished.predictions),
        encoder=str((cohort.files[0].attributes or {}).get("encoder", "not recorded")),
        command=finished.config.command_line(),
        provenance=provenance(result["id"], finished.ids),
        slides=slide_results(finished),
        ledger=ledger_rows(finished.ledger),
        efficiency=finished.efficiency,
    )
    plane = _map(finished)
    pictures = evaluation.pictures(drawn) | plane
    title = "Map of the slides" if finished.cohort.level == "slide" else "Map of the patches"
    sections.append(Section(title, list(plane.values())))
    for name, picture in pictures.items():
        for file, content in picture.files(name).items():
            store.write_bytes(out / "figures" / file, content)
            files.append(f"figures/{file}")
    store.write_text(out / "report.html", page.render(evaluation.page(replace(drawn, sections=sections), pictures)))
    return ["report.html", *files]


def _heatmaps(out: Path, finished: Finished) -> tuple[list[str], list[Section]]:
    """Write the tables of attention and scores of every slide, and heatmaps where its thumbnail or the slide is found."""
    if not finished.attention and not finished.patches:
        return [], []
    from sgcl_cli.stages.evaluate import attention as heatmaps  # OpenCV comes with it

    seen = _seen(finished)
    columns = tables.score_columns(finished.result["task"], finished.result["classes"])
    files = [
        name
        for slide in seen
        for name in heatmaps.write_numbers(out, slide, finished.patches.get(slide.slide_id), columns)
    ]
    given = finished.config.patches, finished.config.slides
    name = finished.result["models"].get(finished.result.get("patch_model"), {}).get("name", "")
    scored_by = f"{name}, the model of the fold that did not train on the slide. "
    drawn, sections = heatmaps.draw(out, seen, given[0], folder=given[1], scored_by=scored_by)
    return [*files, *drawn], sections


def _seen(finished: Finished) -> list[Seen]:
    """The test slides with their attention and scores of patches."""
    from sgcl_cli.stages.evaluate.attention import Seen
    from sgcl_cli.stages.evaluate.patch_scores import shown

    cohort, result = finished.cohort, finished.result
    of_model = result.get("attention_model") or result.get("patch_model")
    texts = captions.captions({**result, "attention_model": of_model}, finished.predictions)
    mine = [row for row in finished.predictions if row["model"] == result.get("patch_model")]
    called = {row["slide_id"]: result["classes"].index(row["predicted"]) for row in mine} if result["classes"] else {}
    folds = {row["slide_id"]: row["fold"] for row in mine}
    kinds = {"task": result["task"], "classes": result["classes"], "called": called, "groups": folds}
    scores = shown(finished.patches, **kinds)
    return [
        Seen(slide, file, texts[slide], finished.attention.get(slide), scores.get(slide))
        for file, slide in zip(cohort.files, cohort.slide_id.tolist(), strict=True)
        if slide in finished.attention or slide in finished.patches
    ]


def _map(finished: Finished) -> dict[str, Picture]:
    """Maps of the slides (or a sample of the patches) in the plane of their first two principal components."""
    cohort = finished.cohort
    if cohort.level == "slide":
        rows = np.stack([file.features.mean(0, dtype=np.float64) for file in cohort.files])
        chosen, what = np.arange(len(cohort)), "Slides (means of their patches)"
    else:
        rows = cohorts.patch_features(cohort)
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).astype(int))
        rows, what = rows[chosen], "A regular sample of the patches"
    plane = principal_plane(rows)
    if plane is None:
        return {}
    labels = [cohort.classes[number] for number in cohort.label[chosen]] if cohort.classes else []
    sites = [] if cohort.site is None else cohort.site[chosen].tolist()
    pictures = {}
    for name, group in (("label", labels), ("site", sites)):
        if len(set(group)) < 2:
            continue
        caption = (
            f"{what} in the plane of their first two principal components (found without labels), coloured by {name}."
        )
        pictures[f"map_{name}"] = Picture.of(
            f"Map by {name}", caption, learning.slide_map(f"By {name}", plane.places, group, plane.explained)
        )
    return pictures


def parts_of(cohort: Cohort, plan: Plan) -> list[evaluation.FoldPart]:
    """Numbers of patients, and of rows per class, in each part of each fold."""
    return [
        evaluation.FoldPart(
            fold.name,
            name,
            len(np.unique(cohort.patient_id[members])),
            _counts(cohort, members),
        )
        for fold in plan.folds
        for name, members in (("training", fold.train), ("validation", fold.validation), ("test", fold.test))
    ]


def _counts(cohort: Cohort, members: NDArray[np.int64]) -> list[int]:
    """Rows per class; a single number for targets without classes."""
    counts: list[int] = np.bincount(cohort.label[members], minlength=len(cohort.classes)).tolist()
    return counts


def efficiency_of(result: Mapping[str, Any]) -> evaluation.Efficiency | None:
    """The label-efficiency curves of metrics.json, by titles of models; None where there are none."""
    found = result.get("label_efficiency")
    if found is None:
        return None
    curves = {
        found["names"][key]: {float(share): values for share, values in curve.items()}
        for key, curve in found["curves"].items()
    }
    intervals = {
        found["names"][key]: {float(share): (one["low"], one["high"]) for share, one in of_shares.items()}
        for key, of_shares in found["intervals"].items()
    }
    return evaluation.Efficiency(found["metric"], curves, found["left_out"], intervals)


def slide_results(finished: Finished) -> list[evaluation.SlideResult]:
    """Test slides with the probability of their true class; empty at patch level and for targets without classes."""
    if finished.result["level"] != "slide" or not finished.result.get("classes"):
        return []
    slides: dict[str, evaluation.SlideResult] = {}
    for row in finished.predictions:
        label = str(row["label"])
        slide = slides.setdefault(row["slide_id"], evaluation.SlideResult(row["slide_id"], label, row["fold"], {}))
        slide.probability[row["model"]] = float(row[f"p_{label}"])
    return list(slides.values())


def provenance(identity: str, ids: Mapping[str, str]) -> list[tuple[str, str]]:
    """Ids of the result and its inputs, and versions of libraries, as (name, value)."""
    installed = versions()
    names = [name for name in ("sgcl", "python", "torch", "scikit-learn") if name in installed]
    return [
        ("Result", identity),
        *((name.capitalize(), value) for name, value in ids.items()),
        ("Versions", ", ".join(f"{name} {installed[name]}" for name in names)),
    ]
