"""slides.csv, failures.csv, index.html and run.json of an output, from all files of patches and the records of all runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, fields, replace
from pathlib import Path

from sgcl_cli.artefacts import layout, lock, parts, store
from sgcl_cli.artefacts.parts import Part
from sgcl_cli.artefacts.patches import PatchFile, folder_id
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, write_failures
from sgcl_cli.config import TileConfig
from sgcl_cli.config.tile import parse_shard
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError
from sgcl_cli.stages.tile.annotations import Drawings
from sgcl_cli.stages.tile.existing import refuse_other_settings, row_of
from sgcl_cli.stages.tile.job import Row, patches_path
from sgcl_cli.stages.tile.page import write_page
from sgcl_cli.stages.tile.tally import SlideTally, mixed_resolutions, shortcomings_of


def close(
    out: Path,
    config: TileConfig,
    drawings: Drawings,
    tally: SlideTally,
    *,
    slide_ids: Set[str],
    outcome: Outcome,
    record: RunRecord,
) -> None:
    """Write the tables and the page of the whole output, unless another run has included this run's record meanwhile."""
    given = [*config.slides, "" if config.list is None else config.list]
    mine = Part(
        cohort=parts.cohort_of([[str(Path(path).absolute()) for path in given], config.id_from]),
        shard=parse_shard(config.shard),
        failures=tuple(tally.failures),
        warnings=tuple(tally.warnings),
        seconds=round(record.seconds(), 3),
        measured={row.id: [row.seconds, row.peak_mib] for row in tally.rows if row.seconds is not None},
    )
    parts.announce(out, mine)
    with lock.held(out / ".tables.lock", wait=True):
        if mine.token not in {part.token for part in parts.recorded(out)}:
            gathered = parts.gather(out, mine, slide_ids)
            _write_tables(out, config, drawings, tally, gathered=gathered, outcome=outcome, record=record)


def _write_tables(
    out: Path,
    config: TileConfig,
    drawings: Drawings,
    tally: SlideTally,
    *,
    gathered: parts.Gathered,
    outcome: Outcome,
    record: RunRecord,
) -> None:
    """Write slides.csv, failures.csv, index.html and, last, run.json."""
    parts = gathered.parts
    failures = sorted({each.slide_id: each for part in parts for each in part.failures}.values(), key=_by_id)
    rows = _all_rows(config, drawings, tally, {failure.slide_id for failure in failures})
    rows = _with_measured(out, rows, parts)
    warned = {row.slide_id: shortcomings_of(row, config) for row in rows}
    messages = dict.fromkeys([*(warning for part in parts for warning in part.warnings), mixed_resolutions(rows)])
    warnings = [warning for warning in messages if warning]
    artefact = folder_id([row.id for row in rows])
    _write_slides(out, rows)
    write_failures(out, failures)
    write_page(
        out,
        config,
        rows,
        failures,
        warnings=[warning for warning in warnings if warning not in warned.values()],
        warned=warned,
        names=drawings.names or (),
        artefact=artefact,
    )
    patches = sum(row.patches for row in rows)
    whole = replace(
        outcome,
        failures=failures,
        warnings=warnings,
        data=outcome.data | {"slides": [asdict(row) for row in rows], "patches": patches},
    )
    record.write(
        out,
        artefact=artefact,
        inputs={row.path: row.identity for row in rows},
        outcome=whole,
        parts=[part.as_record() for part in parts],
    )
    gathered.clear()


def _by_id(what: Row | Failure) -> str:
    return what.slide_id


def _all_rows(config: TileConfig, drawings: Drawings, tally: SlideTally, failed: Set[str]) -> list[Row]:
    """A row for every file of patches, of any run; files of failed slides and of other settings are left out."""
    known = {row.slide_id: row for row in tally.rows}
    rows = []
    for path in layout.files(patches_path(config, "").parent):
        slide_id = layout.slide_id(path)
        if slide_id in failed:
            continue
        if slide_id not in known:
            try:
                made = PatchFile.open(path)
                refuse_other_settings(made, config, drawings, None)
            except (ArtefactError, ConfigError):
                continue
            known[slide_id] = row_of(made)
        rows.append(known[slide_id])
    return sorted(rows, key=_by_id)


def _write_slides(out: Path, rows: Sequence[Row]) -> None:
    cells = [
        asdict(row) | {"labels": "" if row.labels is None else json.dumps(row.labels, ensure_ascii=False)}
        for row in rows
    ]
    store.write_csv(out / "slides.csv", [column.name for column in fields(Row)], cells)


def _with_measured(out: Path, rows: Sequence[Row], parts: Iterable[Part]) -> list[Row]:
    """The rows, with time and memory of slides that this run did not tile, from slides.csv or the records of other runs."""
    path, measured = out / "slides.csv", ("seconds", "peak_mib")
    try:
        table = store.read_table(path, ["id", *measured]) if path.exists() else []
        before = {row["id"]: [float(row[name]) if row[name] else None for name in measured] for row in table}
    except (SgclError, ValueError):
        before = {}
    for part in parts:
        before |= part.measured
    kept = []
    for row in rows:
        seconds, peak = before.get(row.id, (None, None)) if row.seconds is None else (row.seconds, row.peak_mib)
        kept.append(replace(row, seconds=seconds, peak_mib=peak))
    return kept
