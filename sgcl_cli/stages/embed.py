"""sgcl embed: patches, or a folder of class folders of images, and an encoder in; one file of features a slide out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.features import SCHEMA, FeatureWriter, open_file
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, write_failures
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.engine.loader import Called, Failed, Loader, Source, StoredPatches, in_turn
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.progress import Reporter, Silent, Task
from sgcl_cli.stages.encoders import check_resolution, open_encoder, other_encoder

_CHECKPOINT_ROWS = 8192


@dataclass(frozen=True)
class Bag:
    """What becomes one file of features: rows ``start`` .. ``start + count - 1`` of what the loader reads."""

    slide_id: str
    source_id: str
    path: Path
    start: int
    count: int
    columns: dict[str, Any]
    attributes: dict[str, Any]
    geometry: dict[str, Any] | None


def embed(config: EmbedConfig, reporter: Reporter | None = None) -> Outcome:
    """Compute the features of every patch; finished files of the same settings are kept, unfinished ones go on by row.

    Writes <slide_id>.h5, slides.csv, failures.csv and, last, run.json.

    :raises ConfigError: the folder holds features of another encoder or under other settings.
    :raises ArtefactError: no patches, no encoder, patches without pixels, or no slide that could be embedded.
    """
    reporter = reporter or Silent()
    record = RunRecord("embed", config)
    opened = open_encoder(config)
    card = opened.card
    for note in opened.notes:
        reporter.note(note)
    bags, source, source_id, patch = _sources(config, card)
    warnings = check_resolution(card, *patch, allowed=config.allow_mpp)
    for warning in warnings:
        reporter.warn(warning)
    out = Path(config.out)
    total = sum(bag.count for bag in bags)
    if config.dry_run:
        headline = [
            ("files", str(len(bags))),
            ("patches", f"{total:,}"),
            ("features", f"{card.embedding_size} of {card.name}"),
        ]
        data = {"files": len(bags), "patches": total, "dim": card.embedding_size}
        return Outcome("embed", out, headline, len(bags), warnings=warnings, data=data)
    store.sweep(out)
    identities = {bag.slide_id: _identity(config, card, bag) for bag in bags}
    done = _finished(config, out, bags, identities, card)
    runtime = engine.start(config.device, config.precision, config.threads)
    reporter.note(f"device: {runtime.describe()}")
    encoder = FrozenEncoder(card, opened.readout, runtime)
    workers = engine.loading_workers(config.workers, runtime)
    loader = Loader(source, batch=config.batch, workers=workers, pin=runtime.on_cuda)
    failures: list[Failure] = []
    with reporter.task("embed", total, "patches") as bar:
        for bag in bags:
            if bag.slide_id in done:
                bar.advance(bag.count)
                continue
            bar.update(note=bag.slide_id)
            try:
                _embed_one(bag, identities[bag.slide_id], config, encoder, loader, out, bar)
            except ArtefactError as error:
                if "disk is full" in error.message or "cannot write" in error.message:
                    raise
                failures.append(
                    Failure(bag.slide_id, _relative(bag.path, Path(config.patches)), error.message, error.hint)
                )
    return _close(config, record, out, bags, identities, failures, done, card, source_id, warnings)


def _sources(config: EmbedConfig, card: EncoderCard) -> tuple[list[Bag], Source, str, tuple[float | None, int | None]]:
    """What to embed, where its pixels come from, its id, and the patches' (mpp, size) where known."""
    if ImageFolder.is_one(config.patches):
        side = card.resize or card.input_size
        images = ImageFolder.open(config.patches, config.groups, crop=side, interpolation=card.interpolation)
        columns = {
            "name": list(images.names),
            "label": images.label,
            "group": list(images.groups) if images.groups else None,
        }
        attributes = {"label_names": json.dumps(list(images.label_names))}
        bag = Bag(images.name, images.id, images.folder, 0, len(images), columns, attributes, None)
        return [bag], Called(images.read, side), images.id, (None, None)
    if config.groups:
        raise ConfigError(
            "--groups is for a folder of class folders of images", "patients of slides stand in labels.csv"
        )
    index = PatchIndex.open(config.patches, pixels=True)
    bags = [_bag(file, int(index.starts[number])) for number, file in enumerate(index.files)]
    return bags, StoredPatches(index), index.id, (index.mpp, index.patch_size)


def _bag(file: PatchFile, start: int) -> Bag:
    columns = {"coords": file.coords, "grid": file.grid, "label": file.label}
    attributes: dict[str, Any] = {"source_identity": file.source.get("identity")}
    if file.label is not None:
        attributes["label_names"] = json.dumps(list(file.label_names))
    return Bag(file.slide_id, file.id, file.path, start, len(file), columns, attributes, file.geometry)


def _identity(config: EmbedConfig, card: EncoderCard, bag: Bag) -> str:
    settings = {**config.affecting(), "encoder": card.feed()}
    return store.artefact_id(SCHEMA.format, settings, [card.sha256, bag.source_id])


def _finished(
    config: EmbedConfig, out: Path, bags: list[Bag], identities: dict[str, str], card: EncoderCard
) -> set[str]:
    """The slides whose files are complete under the same settings.

    :raises ConfigError: a file of other settings stands in the way.
    """
    done = set()
    for bag in bags:
        path = out / f"{bag.slide_id}.h5"
        if config.overwrite:
            path.unlink(missing_ok=True)
        if not path.exists():
            continue
        attributes = dict(open_file(path).attributes or {})
        if attributes.get("id") == identities[bag.slide_id]:
            done.add(bag.slide_id)
            continue
        if (other := other_encoder(attributes, card)) is not None:
            why = f"with {other}"
        elif attributes.get("patches_id") != bag.source_id:
            why = "from other patches"
        else:
            why = f"with --dtype or --precision other than {config.dtype}, {config.precision}"
        raise ConfigError(f"{path} was made {why}", "use another --out, or --overwrite to replace it")
    return done


def _embed_one(
    bag: Bag, identity: str, config: EmbedConfig, encoder: FrozenEncoder, loader: Loader, out: Path, bar: Task
) -> None:
    card = encoder.card
    attributes = {
        "slide_id": bag.slide_id,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "encoder_feed": json.dumps(card.feed(), sort_keys=True),
        **({} if card.mpp is None else {"encoder_mpp": card.mpp}),
        "patches_id": bag.source_id,
        "patches_path": os.path.relpath(bag.path, out),
        "pretrain_slides": json.dumps(card.pretrain_slides),
        "probe_slides": json.dumps(card.probe_slides),
        "config": json.dumps(config.affecting(), sort_keys=True),
        **bag.attributes,
    }
    with FeatureWriter(out / f"{bag.slide_id}.h5", identity, card.embedding_size, config.dtype) as writer:
        bar.advance(writer.done)
        unsaved = 0
        for rows in _features(bag, writer.done, config, encoder, loader):
            writer.append(rows)
            bar.advance(len(rows))
            unsaved += len(rows)
            if unsaved >= _CHECKPOINT_ROWS:
                writer.checkpoint()
                unsaved = 0
        writer.finish(bag.columns, attributes, bag.geometry)


def _features(
    bag: Bag, done: int, config: EmbedConfig, encoder: FrozenEncoder, loader: Loader
) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    for batch in loader.batches(in_turn(bag.start + done, bag.count - done, config.batch)):
        if isinstance(batch, Failed):
            raise batch.error
        yield encoder(batch.patches)


def _close(
    config: EmbedConfig,
    record: RunRecord,
    out: Path,
    bags: list[Bag],
    identities: dict[str, str],
    failures: list[Failure],
    done: set[str],
    card: EncoderCard,
    source_id: str,
    warnings: list[str],
) -> Outcome:
    failed = {failure.slide_id for failure in failures}
    if len(failed) == len(bags):
        write_failures(out, failures)
        raise ArtefactError(f"none of {len(bags)} files could be embedded: {failures[0].reason}", failures[0].hint)
    made = [bag for bag in bags if bag.slide_id not in failed]
    store.write_csv(
        out / "slides.csv",
        ("slide_id", "patches", "features_id", "patches_id"),
        [
            {
                "slide_id": b.slide_id,
                "patches": b.count,
                "features_id": identities[b.slide_id],
                "patches_id": b.source_id,
            }
            for b in made
        ],
    )
    write_failures(out, failures)
    fresh = sum(bag.count for bag in made if bag.slide_id not in done)
    rate = fresh / record.seconds()
    data = {
        "files": len(made),
        "patches": sum(bag.count for bag in made),
        "computed": fresh,
        "dim": card.embedding_size,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "patches_per_second": rate,
    }
    headline = [
        ("files", f"{len(made)} of {len(bags)}, {len(done)} of them were there already"),
        ("patches", f"{data['patches']:,}"),
        ("features", f"{card.embedding_size} dimensions, {config.dtype}, {card.name} {card.sha256[:12]}"),
        ("patches per second", f"{rate:.1f}"),
        ("written to", str(out)),
    ]
    outcome = Outcome("embed", out, headline, len(bags), failures, warnings, data)
    artefact = store.artefact_id("folder", {}, sorted(identities[bag.slide_id] for bag in made))
    record.write(out, artefact=artefact, inputs={"patches": source_id, "encoder": card.sha256}, outcome=outcome)
    return outcome


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root) if path.is_relative_to(root) else path.name
