"""``sgcl evaluate --dense``: segmentation by a linear head on the feature map of a frozen encoder.

The head is one logistic regression on sampled pixels; slides (or patients, or sites) are left out in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import EmbedConfig, EvaluateConfig
from sgcl_cli.engine import maps, runtime
from sgcl_cli.engine.loader import Failed, Loader, StoredPatches, in_turn
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.nets.baselines import RANDOM
from sgcl_cli.nets.foreign import is_foreign
from sgcl_cli.probe.data import splits
from sgcl_cli.probe.models import dense, linear
from sgcl_cli.probe.models.dense import Counts, Head
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.encoders import Opened, check_resolution, open_encoder, untrained
from sgcl_cli.stages.evaluate.dense.masks import Masked, Masks, open_masks
from sgcl_cli.stages.evaluate.dense.report import Heads, content_of, outcome_of, write
from sgcl_cli.stages.evaluate.stored import stored_result

FORMAT = "sgcl.dense/1"
C_PATH = (1e-4, 1e-3, 1e-2, 1e-1)
_BATCH = 16


@dataclass(frozen=True)
class DenseWork:
    """An encoder, and the patches and masks that it is evaluated on.

    :ivar config: the settings.
    :ivar index: the patches.
    :ivar masks: the masks.
    :ivar network: the encoder up to its feature map.
    :ivar encoder_name: name of the encoder for progress bars.
    """

    config: EvaluateConfig
    index: PatchIndex
    masks: Masks
    network: maps.FeatureMaps
    encoder_name: str


def evaluate_dense(config: EvaluateConfig, reporter: Reporter) -> Outcome:
    """Fit linear heads on the pixels of some slides and score them by Dice and IoU on the others, each slide once.

    Baselines are the same architecture with random weights, and the commonest class everywhere. Writes dense.json, dense.csv,
    figures/, report.html and run.json under ``config.out``; a complete result of the same settings and inputs is returned
    unchanged.

    :raises ConfigError: no --encoder or --patches, an encoder without feature maps, or a folder of another result.
    :raises LabelError: masks of fewer than two groups, or of one class only.
    """
    record = RunRecord("dense", config)
    out = Path(config.out)
    if config.encoder is None or config.patches is None:
        raise ConfigError(
            "--dense needs --encoder and --patches",
            "example: sgcl evaluate --dense masks/ --encoder run/ --patches tiles/ --out results/",
        )
    index = PatchIndex.open(config.patches, pixels=True)
    masks = open_masks(config, index)
    opened = _open(config, index)
    ids = {"patches": index.id, "encoder": opened.card.sha256, "dense": masks.id}
    if config.labels is not None:
        ids["labels"] = store.file_sha256(Path(config.labels))
    stored = stored_result(out, config, ids)
    if stored is not None:
        reporter.note(f"{out} is complete under the same settings and inputs; nothing to do")
        data, warnings = stored
        return outcome_of(out, data, warnings, data)
    seen = replace(opened.card, resize=opened.card.resize and opened.card.input_size)
    size = None if seen.resize is None else index.patch_size
    warnings = [*masks.warnings, *check_resolution(seen, index.mpp, size, allowed=True)]
    for warning in warnings:
        reporter.warn(warning)
    parts = dense.left_out(masks.group, config.folds or splits.FOLDS, config.seed)
    if config.dry_run:
        return _planned(out, masks, len(parts), warnings)
    running = runtime.start(config.device, "fp32", config.threads)
    random = untrained(opened, config.seed)
    found = {}
    for key, one in {"head": opened, "random": random}.items():
        if one is not None:
            network = maps.FeatureMaps(one.readout, one.card, running)
            found[key] = _heads(DenseWork(config, index, masks, network, one.card.name), parts, reporter)
    identity = store.artefact_id(FORMAT, config.affecting(), [f"{name}={value}" for name, value in ids.items()])
    content = {"format": FORMAT, "id": identity, **content_of(config, masks, opened.card, len(parts), found)}
    outcome = write(config, masks, content, warnings)
    record.write(out, artefact=identity, inputs=ids, outcome=outcome)
    return outcome


def _open(config: EvaluateConfig, index: PatchIndex) -> Opened:
    """The encoder, after checking that it gives feature maps of these patches.

    :raises ConfigError: it does not.
    """
    assert config.encoder is not None and config.patches is not None
    if config.dense_layer is not None and is_foreign(config.encoder) and not config.encoder.startswith(RANDOM):
        raise ConfigError(
            f"--dense-layer does not go with --encoder {config.encoder}", "leave it out: the last map is used"
        )
    settings = EmbedConfig(
        patches=config.patches, encoder=config.encoder, layer=config.dense_layer, out=config.out, seed=config.seed
    )
    opened = open_encoder(settings, index.patch_size)
    name = opened.card.name
    side = index.patch_size if opened.card.resize is None else opened.card.input_size
    try:
        with torch.no_grad():
            opened.readout.maps(torch.zeros(1, 3, side, side))
    except ConfigError as error:
        raise ConfigError(f"--dense {config.dense} with {name}: {error.message}", error.hint) from error
    except Exception as error:
        raise ConfigError(
            f"--dense: {name} cannot take whole patches of {side} x {side} pixels: {error}",
            "tile with another --patch-size",
        ) from error
    return opened


def _planned(out: Path, masks: Masks, folds: int, warnings: list[str]) -> Outcome:
    """The outcome of a dry run."""
    plan = {
        "classes": list(masks.classes),
        "slides": len(masks.slides),
        "patches": sum(len(slide.file) for slide in masks.slides),
        masks.left_out: len(np.unique(masks.group)),
        "folds": folds,
    }
    headline = [(name, ", ".join(value) if isinstance(value, list) else f"{value:,}") for name, value in plan.items()]
    return Outcome("evaluate", out, headline, len(masks.slides), warnings=warnings, data={"plan": plan})


def _batches(work: DenseWork, slide: Masked) -> Iterator[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
    """Feature maps (B, D, h, w) of the patches of a slide, with truth (B, size, size) and row numbers (B,)."""
    position = work.index.files.index(slide.file)
    start, count = int(work.index.starts[position]), len(slide.file)
    with Loader(StoredPatches(work.index), batch=_BATCH, workers=0, pin=False) as loader:
        for batch in loader.batches(in_turn(start, count, _BATCH)):
            if isinstance(batch, Failed):
                raise batch.error
            rows = batch.index - start
            truth = np.stack([slide.truth(row, work.index.patch_size, work.masks.classes) for row in rows.tolist()])
            yield work.network(batch.patches), truth, rows


def _samples(work: DenseWork, reporter: Reporter) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int64]]]:
    """Features (n, D) and classes (n,) of about --dense-pixels labelled pixels of each slide; at least one pixel per patch is
    drawn."""
    size = work.index.patch_size
    found = []
    with reporter.task(f"sampling pixels, {work.encoder_name}", len(work.masks.slides), "slide") as task:
        for slide in work.masks.slides:
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


def _heads(work: DenseWork, parts: Sequence[NDArray[np.int64]], reporter: Reporter) -> Heads:
    """Results for each slide, from the head that was not fitted on its group.

    :param parts: slide numbers of each fold.
    """
    slides, classes = work.masks.slides, len(work.masks.classes)
    rows, labels = _samples(work, reporter)
    found = Heads({}, {}, [])
    with reporter.task(f"reporting, {work.encoder_name}", len(slides), "slide") as task:
        for part in parts:
            training = [slide for slide in slides if slide.number not in part]
            probe = _fit(rows, labels, training, classes)
            head = Head.of(probe)
            shown = np.concatenate([labels[slide.number] for slide in training])
            commonest = int(np.bincount(shown, minlength=classes).argmax())
            reported = [slides[number].file.slide_id for number in part.tolist()]
            found.fits.append({"reported": reported, "c": probe.c, "converged": probe.converged, "pixels": len(shown)})
            for number in part.tolist():
                counts = np.zeros((classes, classes), dtype=np.int64)
                for features, truth, _ in _batches(work, slides[number]):
                    predicted = maps.classes_of(features, head.weight, head.bias, work.index.patch_size)
                    counts += dense.count(truth, predicted, classes)
                found.counts[number], found.commonest[number] = counts, _all_called(counts, commonest)
                task.advance()
    return found


def _all_called(counts: Counts, number: int) -> Counts:
    """The counts (K, K) of the same pixels if all are predicted to be of class ``number``."""
    called = np.zeros_like(counts)
    called[:, number] = counts.sum(1)
    return called


def _fit(
    rows: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], training: Sequence[Masked], classes: int
) -> linear.LinearProbe:
    """Logistic regression on pixels of the training slides; with at least three groups C is chosen on the first of them.

    :raises LabelError: the pixels are of fewer than two classes.
    """
    features = np.concatenate([rows[slide.number] for slide in training])
    truth = np.concatenate([labels[slide.number] for slide in training])
    if len(np.unique(truth)) < 2:
        found = f"hold {'one class only' if len(truth) else 'no pixel of any class'} within their patches"
        raise LabelError(
            f"the training slides {', '.join(slide.file.slide_id for slide in training)} {found}",
            "give masks of more slides, or patches of regions with classes",
        )
    group = np.repeat([slide.group for slide in training], [len(labels[slide.number]) for slide in training])
    names = np.unique(group)
    held = group == names[0] if len(names) > 2 else np.zeros(len(group), dtype=bool)
    if len(np.unique(truth[~held])) < 2:
        held = np.zeros(len(group), dtype=bool)
    return linear.fit(features, truth, np.flatnonzero(~held), np.flatnonzero(held), classes=classes, path=C_PATH)
