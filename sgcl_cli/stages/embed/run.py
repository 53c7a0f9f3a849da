"""sgcl embed: from stored patches, slides with coordinates, or images, and an encoder to one features file a slide."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import exports, layout, store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.features import SCHEMA, FeatureWriter, Header, Rounding, read_header, sweep_parts
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, check_free, write_failures
from sgcl_cli.config import EmbedConfig
from sgcl_cli.config.embed import further_forms, parse_query
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.engine.loader import Batch, Failed, Missing
from sgcl_cli.engine.ranks import Ranks, joined, sole_writer
from sgcl_cli.errors import ArtefactError, ConfigError, WriteError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.stages.embed import slide_embeddings, sources
from sgcl_cli.stages.embed.bags import Bag, PatchSource, Todo
from sgcl_cli.stages.embed.pooling import Pooling
from sgcl_cli.stages.embed.writer import FeatureFiles, Rows
from sgcl_cli.stages.encoders import Opened, check_resolution, open_encoder, other_encoder


def embed(config: EmbedConfig, reporter: Reporter | None = None) -> Outcome:
    """Compute the features of all patches; finished files of the same settings are kept, unfinished ones are continued.

    Under torchrun every process calls this and embeds a share of the slides; rank 0 reports and writes the tables.
    Writes ``<slide_id>.h5``, slides.csv, failures.csv and, last, run.json.

    :raises ConfigError: the folder holds features of another encoder or of other settings.
    :raises ArtefactError: there are no patches, no encoder or no pixels, or no slide could be embedded.
    """
    with joined(config.device) as ranks:
        voice = reporter if reporter is not None and ranks.first else Silent()
        return _embed(config, voice, ranks)


@dataclass(frozen=True)
class _Work:
    """The plan of a run.

    :ivar home: folder of the tables.
    :ivar folder: folder of the features files.
    :ivar identities: slide id -> the id of its features file.
    :ivar pooling: of ``--slide-embedding``.
    """

    config: EmbedConfig
    opened: Opened
    source: PatchSource
    home: Path
    folder: Path
    identities: dict[str, str]
    warnings: list[str]
    pooling: Pooling | None = None

    @cached_property
    def settings(self) -> str:
        """The settings that affect the features, JSON."""
        return json.dumps(self.config.affecting(), sort_keys=True)

    @property
    def card(self) -> EncoderCard:
        """The encoder's card."""
        return self.opened.card

    def path(self, bag: Bag) -> Path:
        """The features file of a bag."""
        return self.folder / f"{bag.slide_id}.h5"

    def writer(self, bag: Bag) -> FeatureWriter:
        """The writer of a bag's features file."""
        identity, dim = self.identities[bag.slide_id], self.card.embedding_size
        return FeatureWriter(self.path(bag), identity, dim, self.config.dtype)


def _embed(config: EmbedConfig, reporter: Reporter, ranks: Ranks) -> Outcome:
    record = RunRecord("embed", config)
    with ranks.together():
        work = _planned(config, reporter)
        check_free(work.home, "embed")
    if len(set(ranks.all_of(json.dumps(work.identities, sort_keys=True)))) > 1:
        ranks.agree(
            ArtefactError(
                f"the settings, the encoder or the patches in {config.patches} differ between the processes",
                "patches and --out must lie where all nodes see the same files",
            )
        )
    if config.dry_run:
        return replace(_forecast(work), reported=not ranks.first)
    with sole_writer(work.home, ranks):
        return _embedded(work, record, reporter, ranks)


def _embedded(work: _Work, record: RunRecord, reporter: Reporter, ranks: Ranks) -> Outcome:
    """Embed, holding the lock of the output."""
    config = work.config
    with ranks.together():
        runtime = engine.start(config.device, config.precision, config.threads, ranks.own_device)
        done = _finished(work) if ranks.first else set()
    done = ranks.of_first(done)
    with ranks.together():
        reporter.note(f"device: {runtime.describe()}" + (f", {ranks.count} processes" if ranks.count > 1 else ""))
        mine = shared([bag for bag in work.source.bags if bag.slide_id not in done], ranks)
        failures = _run(work, mine, runtime, reporter, ranks.local_count)
    failures = [*work.source.failures, *(failure for part in ranks.all_of(failures) for failure in part)]
    with ranks.together():
        if not ranks.first:
            return Outcome("embed", work.home, [], reported=True)
        return _close(work, record, failures, done, reporter)


def _planned(config: EmbedConfig, reporter: Reporter) -> _Work:
    """Open the patches and the encoder, and check that they fit together."""
    source: PatchSource
    if ImageFolder.is_one(config.patches):
        opened = open_encoder(config)
        source = sources.images(config, opened.card)
    else:
        source = sources.patches(config)
        opened = open_encoder(config, source.kind.patch_size)
    card = opened.card
    for note in opened.notes:
        reporter.note(note)
    kind = source.kind
    for form in further_forms(config.also):
        exports.check(form)
    if config.query is not None and parse_query(config.query)[0] not in {bag.slide_id for bag in source.bags}:
        raise ConfigError(f"--query {config.query}: there is no such slide", f"{config.patches} does not hold it")
    warnings = [*source.warnings, *check_resolution(card, kind.mpp, kind.patch_size, allowed=config.allow_mpp)]
    settings = {**config.affecting(), **source.settings, "encoder": card.feed()}
    identities = {
        bag.slide_id: store.artefact_id(SCHEMA.format, settings, [card.sha256, bag.source_id]) for bag in source.bags
    }
    pooling = None
    if config.slide_embedding is not None:
        pooling = slide_embeddings.planned(config, card, source.bags, identities)
        warnings += pooling.warnings
    for warning in warnings:
        reporter.warn(warning)
    folder = layout.features_folder(Path(config.out), config.layout, tree=kind.tree, encoder=card.name)
    home = folder if config.layout == "trident" else Path(config.out)
    return _Work(config, opened, source, home, folder, identities, warnings, pooling)


def _forecast(work: _Work) -> Outcome:
    bags, card = work.source.bags, work.card
    total = sum(bag.count for bag in bags)
    headline = [
        ("files", str(len(bags))),
        ("patches", f"{total:,}"),
        ("features", f"{card.embedding_size} of {card.name}"),
    ]
    data = {"files": len(bags), "patches": total, "dim": card.embedding_size}
    failures = work.source.failures
    return Outcome("embed", work.home, headline, len(bags) + len(failures), failures, work.warnings, data)


def _finished(work: _Work) -> set[str]:
    """Ids of the slides with a finished features file of the same settings.

    :raises ConfigError: there is a features file of other settings.
    """
    config, done = work.config, set()
    for bag in work.source.bags:
        path = work.path(bag)
        if config.overwrite:
            path.unlink(missing_ok=True)
        if not path.exists():
            continue
        attributes = read_header(path).attributes
        if attributes.get("id") == work.identities[bag.slide_id]:
            done.add(bag.slide_id)
            continue
        if (other := other_encoder(attributes, work.card)) is not None:
            why = f"with {other}"
        elif attributes.get("patches_id") != bag.source_id:
            why = "from other patches"
        elif attributes.get("pixels", "stored") != work.source.settings.get("pixels", "stored"):
            why = f"from {attributes.get('pixels', 'stored')} pixels"
        else:
            why = f"with --dtype or --precision other than {config.dtype}, {config.precision}"
        raise ConfigError(f"{path} was made {why}", "use another --out, or --overwrite to replace it")
    sweep_parts(work.folder, {bag.slide_id for bag in work.source.bags} - done)
    return done


def shared(bags: Sequence[Bag], ranks: Ranks) -> list[Bag]:
    """The bags of this rank: from the largest on, each bag goes to the rank with the fewest patches so far."""
    loads = [0] * ranks.count
    mine = []
    for bag in sorted(bags, key=lambda bag: (-bag.count, bag.slide_id)):
        rank = loads.index(min(loads))
        loads[rank] += bag.count
        if rank == ranks.rank:
            mine.append(bag)
    return sorted(mine, key=lambda bag: bag.start)


def _run(work: _Work, bags: Sequence[Bag], runtime: engine.Runtime, reporter: Reporter, sharers: int) -> list[Failure]:
    """Embed bags; returns those that failed."""
    encoder = FrozenEncoder(work.card, work.opened.readout, runtime)
    config, root = work.config, Path(work.config.patches)
    todo = [Todo(bag, work.writer(bag).kept()) for bag in bags]
    with (
        reporter.task("embed", sum(bag.count for bag in bags), "patches") as bar,
        FeatureFiles(bags, work.writer, lambda bag: _attributes(work, bag), root, bar) as files,
    ):
        bar.advance(sum(each.done for each in todo))
        with closing(work.source.arrivals(todo, config, runtime, sharers)) as arrivals:
            _encode_batches(arrivals, encoder, files)
        for bag in list(files.interrupted):
            again = [Todo(bag, files.position(bag))]
            with closing(work.source.arrivals(again, config, runtime, sharers)) as arrivals:
                _encode_batches(arrivals, encoder, files)
        return files.failures


def _encode_batches(arrivals: Iterable[Batch | Missing | Failed], encoder: FrozenEncoder, files: FeatureFiles) -> None:
    """Encode batches; the features of a batch are fetched after the next one was started, so that a GPU is never idle."""
    begun: tuple[Any, Callable[[], Rows]] | None = None
    for arrived in arrivals:
        if isinstance(arrived, Missing):
            files.miss(arrived)
        elif isinstance(arrived, Failed):
            files.fail(arrived)
        elif (wanted := files.wanted(arrived.index)).any():
            patches = arrived.patches if wanted.all() else arrived.patches[wanted.nonzero()[0]]
            following = arrived.index[wanted], encoder.begin(patches)
            if begun is not None:
                files.take(begun[0], begun[1]())
            begun = following
    if begun is not None:
        files.take(begun[0], begun[1]())


def _attributes(work: _Work, bag: Bag) -> dict[str, Any]:
    card = work.card
    return {
        "slide_id": bag.slide_id,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "encoder_feed": json.dumps(card.feed(), sort_keys=True),
        **({} if card.mpp is None else {"encoder_mpp": card.mpp}),
        "patches_id": bag.source_id,
        "patches_path": os.path.relpath(bag.path, work.folder),
        "pixels": work.source.settings.get("pixels", "stored"),
        "pretrain_slides": json.dumps(card.pretrain_slides),
        "probe_slides": json.dumps(card.probe_slides),
        "config": work.settings,
        **bag.attributes,
    }


def _close(work: _Work, record: RunRecord, failures: list[Failure], done: set[str], reporter: Reporter) -> Outcome:
    """Write the exports, the slide embeddings, the pictures, the tables and, last, run.json.

    :raises ArtefactError: no slide could be embedded; or a slide embedding is not finite, when everything else has been written.
    :raises ConfigError: there is no patch where --query points; everything else has been written.
    """
    config, card, bags = work.config, work.card, work.source.bags
    failed = {failure.slide_id for failure in failures}
    made = [bag for bag in bags if bag.slide_id not in failed]
    if not made:
        write_failures(work.home, failures)
        raise ArtefactError(f"none of {len(failed)} files could be embedded: {failures[0].reason}", failures[0].hint)
    headers = {bag.slide_id: read_header(work.path(bag)) for bag in made}
    warnings, lost = [*work.warnings], list[Failure]()
    for bag in made:
        if bag.columns.get("name") is not None:
            lost += _lost_images(bag, headers[bag.slide_id])
        elif unreadable := headers[bag.slide_id].unreadable:
            warnings.append(f"{bag.slide_id}: {len(unreadable)} of {bag.count} patches cannot be read and are left out")
            reporter.warn(warnings[-1])
    failures = [*failures, *lost]
    written, nowhere = list[tuple[str, str]](), None
    try:
        written = _further(work, made, warnings, reporter)
    except WriteError:
        raise
    except (ConfigError, ArtefactError) as error:
        nowhere = error
    _write_tables(work, made, headers, failures)
    rounding = Rounding()
    for each in headers.values():
        rounding = rounding.joined(each.rounding)
    rows = {slide_id: each.rows for slide_id, each in headers.items()}
    fresh = sum(count for slide_id, count in rows.items() if slide_id not in done)
    rate = fresh / record.seconds()
    data = {
        "files": len(made),
        "patches": sum(rows.values()),
        "computed": fresh,
        "dim": card.embedding_size,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "patches_per_second": rate,
        "rounding": {"dtype": config.dtype, "largest": rounding.largest, "mean": rounding.mean},
    }
    headline = [
        ("files", f"{len(made)} of {len(bags) + len(work.source.failures)}, {len(done)} of them were there already"),
        ("patches", f"{data['patches']:,}"),
        *([("images left out", str(len(lost)))] if lost else []),
        ("features", f"{card.embedding_size} dimensions, {config.dtype}, {card.name} {card.sha256[:12]}"),
        ("rounding", f"at most {rounding.largest:.2g}, {rounding.mean:.2g} on average"),
        ("patches per second", f"{rate:.1f}"),
        *written,
        ("written to", str(work.folder)),
    ]
    total = sum(bag.count for bag in bags) if lost else len(bags) + len(work.source.failures)
    outcome = Outcome("embed", work.home, headline, total, failures, warnings, data)
    artefact = store.artefact_id("folder", {}, sorted(work.identities[bag.slide_id] for bag in made))
    inputs = {"patches": work.source.id, "encoder": card.sha256}
    record.write(work.home, artefact=artefact, inputs=inputs, outcome=outcome)
    if nowhere is not None:
        raise nowhere
    return outcome


def _further(work: _Work, made: Sequence[Bag], warnings: list[str], reporter: Reporter) -> list[tuple[str, str]]:
    """Write the exports of ``--also``, slide embeddings, and the pictures of ``--map`` and ``--query``; returns lines of the
    closing table.

    :param warnings: list to which warnings are appended.
    """
    config, lines = work.config, []
    paths = {bag.slide_id: work.path(bag) for bag in made}
    for form in further_forms(config.also):
        sources = {slide_id: (path, work.identities[slide_id]) for slide_id, path in paths.items()}
        written = exports.export(form, work.home, sources, work.source.picture)
        lines.append((f"also {form}", f"{written} of {len(paths)} files written"))
    if work.pooling is not None:
        line, remarks = slide_embeddings.write(work.pooling, work.home, paths, work.identities, work.card)
        lines.append(("slide embeddings", line))
        warnings += remarks
        for remark in remarks:
            reporter.warn(remark)
    if config.map:
        from sgcl_cli.stages.embed import maps

        provenance = [("encoder", f"{work.card.name} {work.card.sha256}"), ("patches", work.source.id)]
        drawn = maps.draw(work.home, paths, config.seed, config.command_line(), provenance, picture=work.source.picture)
        if not drawn:
            reporter.warn("--map: there are no patches with coordinates to draw")
        lines.append(("map", str(work.home / "maps.html") if drawn else "nothing to draw"))
    if config.query is not None:
        from sgcl_cli.stages.embed import query

        hits = query.find(paths, *parse_query(config.query), config.query_top)
        lines.append(("query", str(query.write(work.home, hits, work.source.show))))
    return lines


def _lost_images(bag: Bag, header: Header) -> list[Failure]:
    remedy = "replace or remove it, then use --overwrite"
    names = bag.columns["name"]
    return [Failure(bag.slide_id, names[row], reason, remedy) for row, reason in header.unreadable.items()]


def _write_tables(work: _Work, made: Sequence[Bag], headers: dict[str, Header], failures: list[Failure]) -> None:
    columns = ("slide_id", "patches", "unreadable", "features_id", "patches_id")
    rows = [
        {
            "slide_id": bag.slide_id,
            "patches": headers[bag.slide_id].rows,
            "unreadable": len(headers[bag.slide_id].unreadable),
            "features_id": work.identities[bag.slide_id],
            "patches_id": bag.source_id,
        }
        for bag in made
    ]
    store.write_csv(work.home / "slides.csv", columns, rows)
    write_failures(work.home, failures)
