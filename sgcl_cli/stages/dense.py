"""``sgcl evaluate --dense``: how well a linear head on the encoder's feature map tells the class of each pixel.

The light form of a segmentation task: the encoder stays frozen, the head is one logistic regression on sampled pixels,
and slides (or their patients, or sites) are left out in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.labels import Columns, read_labels
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord, versions
from sgcl_cli.config import EmbedConfig, EvaluateConfig
from sgcl_cli.engine import maps, runtime
from sgcl_cli.engine.loader import Failed, Loader, StoredPatches, in_turn
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.nets.resnet import ResNet
from sgcl_cli.probe import dense, linear
from sgcl_cli.probe.dense import Counts, Head
from sgcl_cli.progress import Reporter
from sgcl_cli.report import figures, page
from sgcl_cli.report.page import Page, Picture, Section, Table
from sgcl_cli.slide import annotation_files
from sgcl_cli.slide.annotation_files import MaskReading
from sgcl_cli.slide.annotations import Raster
from sgcl_cli.stages.encoders import check_resolution, open_encoder

FORMAT = "sgcl.dense/1"
C_PATH = (1e-4, 1e-3, 1e-2, 1e-1)
_BATCH = 16
_COLUMNS = ("scope", "slide_id", "group", "class", "dice", "iou", "pixels", "reason")
_KINDS = {"head": "Linear head", "majority": "Commonest class"}


@dataclass(frozen=True)
class Masked:
    """A slide with patches and a mask: its place among all slides, and the class number of each mask value."""

    number: int
    file: PatchFile
    group: str
    raster: Raster


@dataclass(frozen=True)
class Work:
    """What is needed to look at a slide's pixels."""

    config: EvaluateConfig
    index: PatchIndex
    network: maps.FeatureMaps
    classes: tuple[str, ...]


def evaluate_dense(config: EvaluateConfig, reporter: Reporter) -> Outcome:
    """Fit a linear head on some slides' pixels and report Dice and IoU on the others', each slide once.

    Writes dense.json, dense.csv, figures/, report.html and run.json under ``config.out``.

    :raises ConfigError: no --encoder or --patches, an encoder without feature maps, or a folder of another result.
    :raises LabelError: masks of fewer than two slides or groups, or of one class only.
    """
    record = RunRecord("dense", config)
    out = Path(config.out)
    _check_free(out, config)
    if config.encoder is None or config.patches is None:
        raise ConfigError(
            "--dense needs --encoder and --patches",
            "example: sgcl evaluate --dense masks/ --encoder run/ --patches tiles/ --out results/",
        )
    index = PatchIndex.open(config.patches, pixels=True)
    slides, classes = _slides(config, index)
    opened = open_encoder(EmbedConfig(patches=config.patches, encoder=config.encoder, out=config.out))
    if not isinstance(opened.readout.network, ResNet):
        raise ConfigError(
            f"--dense: {opened.card.name} has no feature maps that are known here", "give a ResNet of this package"
        )
    warnings = check_resolution(opened.card, index.mpp, None, allowed=True)
    for warning in warnings:
        reporter.warn(warning)
    running = runtime.start(config.device, "fp32", config.threads)
    network = maps.FeatureMaps(opened.readout.network, opened.card, int(config.dense_layer[-1]), running)
    work = Work(config, index, network, classes)
    parts = dense.left_out(np.array([slide.group for slide in slides]), config.folds, config.seed)
    content: dict[str, Any] = {"classes": list(classes), "slides": len(slides), "folds": len(parts)}
    if config.dry_run:
        return Outcome("evaluate", out, [(name, str(value)) for name, value in content.items()], len(slides))
    rows, labels = _samples(work, slides, reporter)
    counts, fits = _report(work, slides, parts, rows, labels, reporter)
    sources = [index.id, opened.card.sha256, *(str(store.file_sha256(path)) for path in _mask_files(config, index))]
    identity = store.artefact_id(FORMAT, {**config.affecting(), "groups": [slide.group for slide in slides]}, sources)
    content |= {
        "format": FORMAT,
        "id": identity,
        "encoder": {"name": opened.card.name, "sha256": opened.card.sha256},
        "layer": config.dense_layer,
        "groups": len({slide.group for slide in slides}),
        "fits": fits,
        "scores": {kind: _scores(of_slides, classes) for kind, of_slides in counts.items()},
        "per_slide": [
            {
                "slide_id": slide.file.slide_id,
                "group": slide.group,
                **_scores({0: counts["head"][slide.number]}, classes),
            }
            for slide in slides
        ],
    }
    return _write(config, out, record, content, counts["head"], warnings, {"patches": index.id})


def _check_free(out: Path, config: EvaluateConfig) -> None:
    """Refuse to write over what another stage left."""
    if (out / "run.json").exists() and not config.overwrite:
        stage = store.read_json(out / "run.json").get("stage")
        if stage != "dense":
            raise ConfigError(f"{out} holds the output of sgcl {stage}", "choose another --out")


def _mask_files(config: EvaluateConfig, index: PatchIndex) -> list[Path]:
    return [path for _, path in sorted(_found(config, index).items())]


def _found(config: EvaluateConfig, index: PatchIndex) -> dict[str, Path]:
    """The mask of each slide; PNG files where there are any, since slides themselves may be TIFF."""
    assert config.dense is not None
    folder = Path(config.dense)
    png = folder.is_dir() and any(path.suffix.lower() == ".png" for path in folder.iterdir())
    return annotation_files.find(folder, index.slide_ids, [], (".png",) if png else (".tif", ".tiff"))[0]


def _slides(config: EvaluateConfig, index: PatchIndex) -> tuple[list[Masked], tuple[str, ...]]:
    """Slides with patches and a mask, and the classes in the order of their numbers."""
    named = None if config.mask_values is None else annotation_files.parse_mask_values(config.mask_values)
    groups = (
        {} if config.labels is None else read_labels(config.labels, Columns(config.id.strip().lower(), None)).by_slide()
    )
    rasters = {}
    for slide_id, path in sorted(_found(config, index).items()):
        content = annotation_files.read(path, MaskReading(None, named))
        if content.values is None:
            raise LabelError(f"{path} is not a mask image", "give PNG or TIFF with one channel of whole numbers")
        values = np.unique(content.values) if named is None else np.array(sorted(named))
        own = {int(value): (named or {}).get(int(value), str(value)) for value in values if value != config.ignore}
        rasters[slide_id] = (path, content, own)
    classes = annotation_files.in_order(frozenset(name for *_, own in rasters.values() for name in own.values()))
    found: list[Masked] = []
    for file in index.files:
        if file.slide_id not in rasters or not len(file):
            continue
        path, content, own = rasters[file.slide_id]
        assert content.values is not None
        height, width = content.values.shape
        size = tuple(
            file.geometry.get(f"level0_{side}", known) for side, known in (("width", width), ("height", height))
        )
        if (width, height) != size:
            raise LabelError(
                f"{path.name} is {width} x {height} pixels, its slide {size[0]} x {size[1]}",
                "give masks of the slides' full size",
            )
        row = groups.get(file.slide_id)
        group = file.slide_id if row is None else row.patient_id
        found.append(Masked(len(found), file, group, Raster(content.values, (1.0, 1.0), own)))
    if len({slide.group for slide in found}) < 2:
        raise LabelError(
            f"masks and patches of {len(found)} slides of {len({slide.group for slide in found})} groups",
            "a head is fitted on some and reported on others: give at least two",
        )
    if len(classes) < 2:
        raise LabelError(f"the masks hold one class only: {', '.join(classes)}", "see --mask-values and --ignore")
    return found, classes


def _truth(slide: Masked, row: int, size: int, classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each pixel of a patch, int64 (size, size), -1 for none: that of the mask's pixel at its centre."""
    values = slide.raster.values
    steps = slide.file.sides / size
    corner = slide.file.coords[row]
    across, down = ((corner[axis] + (np.arange(size) + 0.5) * steps[axis]).astype(np.int64) for axis in (0, 1))
    inside = ((down >= 0) & (down < values.shape[0]))[:, None] & ((across >= 0) & (across < values.shape[1]))
    seen = values[np.clip(down, 0, values.shape[0] - 1)[:, None], np.clip(across, 0, values.shape[1] - 1)]
    truth = np.full((size, size), -1, dtype=np.int64)
    for value, name in slide.raster.classes.items():
        truth[inside & (seen == value)] = classes.index(name)
    return truth


def _batches(work: Work, slide: Masked) -> Iterator[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
    """Feature maps (B, D, h, w) of a slide's patches with their truth (B, size, size) and their rows."""
    position = work.index.files.index(slide.file)
    start, count = int(work.index.starts[position]), len(slide.file)
    loader = Loader(StoredPatches(work.index), batch=_BATCH, workers=0, pin=False)
    for batch in loader.batches(in_turn(start, count, _BATCH)):
        if isinstance(batch, Failed):
            raise batch.error
        rows = batch.index - start
        truth = np.stack([_truth(slide, row, work.index.patch_size, work.classes) for row in rows.tolist()])
        yield work.network(batch.patches), truth, rows


def _samples(
    work: Work, slides: Sequence[Masked], reporter: Reporter
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int64]]]:
    """Of each slide the features (n, D) and classes (n,) of at most --dense-pixels labelled pixels, drawn patch by patch."""
    size = work.index.patch_size
    found = []
    with reporter.task("sampling pixels", len(slides), "slide") as task:
        for slide in slides:
            each = max(1, work.config.dense_pixels // len(slide.file))
            rows, labels = [], []
            for features, truth, numbers in _batches(work, slide):
                places = np.zeros((len(truth), each, 2), dtype=np.int64)
                for place, number in enumerate(numbers.tolist()):
                    generator = np.random.default_rng([work.config.seed, slide.number, number])
                    places[place] = generator.integers(0, size, (each, 2))
                drawn = truth[np.arange(len(truth))[:, None], places[..., 0], places[..., 1]]
                known = drawn >= 0
                rows.append(maps.at_pixels(features, places, size)[known])
                labels.append(drawn[known])
            found.append((np.concatenate(rows), np.concatenate(labels)))
            task.advance()
    return [rows for rows, _ in found], [labels for _, labels in found]


def _report(
    work: Work,
    slides: Sequence[Masked],
    parts: Sequence[NDArray[np.int64]],
    rows: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    reporter: Reporter,
) -> tuple[dict[str, dict[int, Counts]], list[dict[str, Any]]]:
    """Pixels by truth and prediction of each slide, from the head that did not see its group; what each fit says."""
    classes = len(work.classes)
    counts: dict[str, dict[int, Counts]] = {kind: {} for kind in _KINDS}
    fits = []
    with reporter.task("reporting", len(slides), "slide") as task:
        for part in parts:
            training = [number for number in range(len(slides)) if number not in part]
            probe = _fit(rows, labels, [slides[number] for number in training], classes)
            shown = np.concatenate([labels[number] for number in training])
            commonest = int(np.bincount(shown, minlength=classes).argmax())
            heads = {"head": Head.of(probe), "majority": Head.constant(commonest, classes, rows[0].shape[1])}
            reported = [slides[number].file.slide_id for number in part.tolist()]
            fits.append({"reported": reported, "c": probe.c, "converged": probe.converged, "pixels": len(shown)})
            for number in part.tolist():
                total = {kind: np.zeros((classes, classes), dtype=np.int64) for kind in heads}
                for features, truth, _ in _batches(work, slides[number]):
                    for kind, head in heads.items():
                        predicted = maps.classes_of(features, head.weight, head.bias, work.index.patch_size)
                        total[kind] += dense.count(truth, predicted, classes)
                for kind in heads:
                    counts[kind][number] = total[kind]
                task.advance()
    return counts, fits


def _fit(
    rows: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], training: Sequence[Masked], classes: int
) -> linear.LinearProbe:
    """A logistic regression on the training slides' pixels; C from the first group's where there are three groups."""
    features = np.concatenate([rows[slide.number] for slide in training])
    truth = np.concatenate([labels[slide.number] for slide in training])
    group = np.repeat([slide.group for slide in training], [len(labels[slide.number]) for slide in training])
    names = np.unique(group)
    held = group == names[0] if len(names) > 2 else np.zeros(len(group), dtype=bool)
    if len(np.unique(truth[~held])) < 2:
        held = np.zeros(len(group), dtype=bool)
    if len(np.unique(truth)) < 2:
        raise LabelError(
            f"the training slides {', '.join(slide.file.slide_id for slide in training)} hold one class only",
            "give masks of more slides",
        )
    return linear.fit(features, truth, np.flatnonzero(~held), np.flatnonzero(held), classes=classes, path=C_PATH)


def _scores(counts: Mapping[int, Counts], classes: Sequence[str]) -> dict[str, Any]:
    """Dice and IoU of each class and their means, of all pixels together."""
    total = np.sum(list(counts.values()), axis=0)
    found: dict[str, Any] = {"pixels": int(total.sum()), "confusion": total.tolist()}
    for name, scores in (("dice", dense.dice(total)), ("iou", dense.iou(total))):
        found[name] = {
            one: {"value": score.value, "reason": score.reason} for one, score in zip(classes, scores, strict=True)
        }
        found[f"mean_{name}"] = dense.mean(scores)
    return found


def _write(
    config: EvaluateConfig,
    out: Path,
    record: RunRecord,
    content: dict[str, Any],
    counts: Mapping[int, Counts],
    warnings: list[str],
    inputs: Mapping[str, str],
) -> Outcome:
    store.write_json(out / "dense.json", content)
    store.write_csv(out / "dense.csv", _COLUMNS, list(_rows(content)))
    pictures = {}
    if figures.AVAILABLE:
        total = np.sum(list(counts.values()), axis=0)
        drawn = figures.confusion("Pixels", total, content["classes"])
        caption = "Pixels of all reported slides: rows are the truth, each row adds up to 100 %."
        pictures["confusion_pixels"] = Picture.of("Confusion of pixels", caption, drawn)
    for name, picture in pictures.items():
        for file, drawn_bytes in picture.files(name).items():
            store.write_bytes(out / "figures" / file, drawn_bytes)
    store.write_text(out / "report.html", page.render(_page(config, content, list(pictures.values()), warnings)))
    headline = []
    for kind, spoken in _KINDS.items():
        scores = content["scores"][kind]
        for metric, name in (("dice", "Dice"), ("iou", "IoU")):
            parts = ", ".join(f"{one} {_number(score['value'])}" for one, score in scores[metric].items())
            headline.append((f"{spoken}: {name}", f"{_number(scores[f'mean_{metric}'])} ({parts})"))
    data = {key: value for key, value in content.items() if key != "format"}
    outcome = Outcome("evaluate", out, headline, content["slides"], warnings=warnings, data=data)
    record.write(
        out, artefact=content["id"], inputs={**inputs, "encoder": content["encoder"]["sha256"]}, outcome=outcome
    )
    return outcome


def _rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    scopes: list[tuple[dict[str, str], Mapping[str, Any]]] = [
        ({"scope": kind, "slide_id": "", "group": ""}, scores) for kind, scores in content["scores"].items()
    ]
    scopes += [
        ({"scope": "slide", "slide_id": one["slide_id"], "group": one["group"]}, one) for one in content["per_slide"]
    ]
    for scope, scores in scopes:
        for number, name in enumerate(content["classes"]):
            yield {
                **scope,
                "class": name,
                "dice": scores["dice"][name]["value"],
                "iou": scores["iou"][name]["value"],
                "pixels": sum(scores["confusion"][number]),
                "reason": scores["dice"][name]["reason"],
            }


def _page(
    config: EvaluateConfig, content: Mapping[str, Any], pictures: Sequence[Picture], warnings: Sequence[str]
) -> Page:
    classes = content["classes"]
    columns = [*(f"Dice, {name}" for name in classes), "Dice, mean", *(f"IoU, {name}" for name in classes), "IoU, mean"]

    def cells(scores: Mapping[str, Any]) -> list[float | None]:
        return [
            value
            for metric in ("dice", "iou")
            for value in (*(scores[metric][name]["value"] for name in classes), scores[f"mean_{metric}"])
        ]

    whole = [[spoken, *cells(content["scores"][kind])] for kind, spoken in _KINDS.items()]
    single = [[one["slide_id"], one["group"], one["pixels"], *cells(one)] for one in content["per_slide"]]
    unconverged = [fit for fit in content["fits"] if not fit["converged"]]
    methods = (
        f"The encoder is frozen. One logistic regression (scikit-learn's objective) on features of {config.dense_layer} at "
        f"up to {config.dense_pixels:,} labelled pixels a slide, drawn at random within each patch, bilinear between the "
        "cells of the map; scores are bilinear between cells too, and a pixel's class is the highest score. C is chosen on a "
        "training group held out where there are three, else it is 1. Groups are left out in turn, so no slide is reported "
        "by a head that saw it or its group. Pixels of a patch that overlaps another count twice."
    )
    return Page(
        title=f"How well do feature maps tell {' from '.join(classes) if len(classes) == 2 else 'pixels apart'}?",
        facts=[
            f"{content['slides']} slides",
            f"{content['groups']} groups",
            f"{content['folds']} folds",
            f"encoder {content['encoder']['name']}, {content['layer']}",
        ],
        inferred=[("Classes", ", ".join(classes), "" if config.mask_values else "the masks' values")],
        models={},
        confidence=config.confidence,
        folds=content["folds"],
        warnings=[
            *warnings,
            *(f"the head that reports {', '.join(f['reported'])} did not converge" for f in unconverged),
        ],
        methods=[methods],
        command=config.command_line(),
        provenance=[
            ("Result", content["id"]),
            ("Encoder", content["encoder"]["sha256"]),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ],
        sections=[
            Section(
                "All reported slides",
                pictures,
                [Table("", ["Model", *columns], whole, "All pixels together. “Commonest class” says it everywhere.")],
            ),
            Section(
                "Slide by slide",
                tables=[
                    Table(
                        "", ["Slide", "Group", "Pixels", *columns], single, "No intervals: slides stand for themselves."
                    )
                ],
            ),
        ],
        data=content,
        kicker="sgcl evaluate --dense",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
