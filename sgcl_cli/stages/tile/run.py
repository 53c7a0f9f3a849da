"""Slides in, patches out: the first stage.

Each slide is one task of the worker pool and one file of patches; ``tile_slide`` is what happens to it there. Several runs may
write into one output at the same time, shards of one command among them: slides are locked one by one, and the tables are
written from all files of patches and from what all runs say.
"""

from __future__ import annotations

import json
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import layout, lock, parts, store
from sgcl_cli.artefacts.parts import Part
from sgcl_cli.artefacts.patches import PatchFile, folder_id
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, check_free, write_failures
from sgcl_cli.config import TileConfig, differences
from sgcl_cli.config.tile import parse_shard
from sgcl_cli.engine.cluster import run_on_cluster
from sgcl_cli.engine.pool import Lost, Progress, Result, run_tasks
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError, SlideError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.slide.open.backends.openslide import dicom_series
from sgcl_cli.slide.open.discover import Entry, discover
from sgcl_cli.slide.open.files import companions, identity
from sgcl_cli.slide.open.reader import LEVEL_0_UPSAMPLING
from sgcl_cli.stages.tile.annotations import Drawings, renamed, said_origins, settle
from sgcl_cli.stages.tile.claims import Elsewhere, Work, claimed, exclusively, shard_of
from sgcl_cli.stages.tile.page import write_page
from sgcl_cli.stages.tile.slide import (
    TRIED,
    Job,
    Row,
    Survey,
    class_counts,
    patches_path,
    spoken_bounds,
    survey_slide,
    tile_slide,
)

_SERIES_TIMEOUT = 60.0  # seconds
_MUCH_INK = 0.01  # of the tissue
_MIXED = 1.5  # between the coarsest and the finest level 0 of a cohort


@dataclass
class _Tally:
    """What has become of the slides so far."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: int = 0

    def warn(self, warning: str, reporter: Reporter) -> None:
        self.warnings.append(warning)
        reporter.warn(warning)


def tile(config: TileConfig, reporter: Reporter | None = None, work: Work | None = None) -> Outcome:
    """Tile slides: patches, thumbnails, overlays, contours, slides.csv, failures.csv, index.html and run.json under ``out``.

    Slides that are complete under the same settings are skipped, failed ones are tried again. A slide that cannot be used is
    recorded, and the others go on. With ``dry_run`` nothing is written. With ``shard`` only some slides are done; the tables
    tell what all runs on this output have done.

    :param work: what is done to each slide in a worker process; a function importable by name.
    :raises ConfigError: no slides, ids that collide, an output made under other settings or annotations.
    :raises LabelError: an annotation that cannot be read.
    :raises SlideError: no slide gave any patch.
    :raises ArtefactError: the output cannot be written.
    """
    reporter = reporter or Silent()
    record = RunRecord("tile", config)
    out = Path(config.out)
    check_free(out, "tile")
    table = None if config.list is None else Path(config.list)
    found = discover([Path(given) for given in config.slides], table, config.id_from, _series_of(config))
    if found.passed_over:
        reporter.note(found.passed_over)
    drawings = settle(config, found.entries, _workers(config))
    tally = _Tally()
    for note in drawings.notes:
        tally.warn(note, reporter)
    entries = shard_of(found.entries, parse_shard(config.shard))
    if config.shard is not None:
        reporter.note(f"shard {config.shard}: {len(entries)} of {len(found.entries)} slides")
    jobs = _unfinished(entries, config, drawings, tally)
    if tally.skipped:
        reporter.note(f"{tally.skipped} of {len(entries)} slides are complete already")
    if not config.dry_run:
        store.sweep(out)
        lock.sweep(out)
        if config.overwrite:
            _remove_old(config, jobs)
    _set_refused_aside(jobs, drawings, tally)
    for result in _run(work, jobs, config, reporter):
        if result.value is Elsewhere.DONE:
            _take_existing(patches_path(config, result.key), jobs[result.key], config, drawings, tally)
        else:
            _count(result, jobs[result.key], tally, reporter)
    if not config.dry_run:
        _take_what_others_made(jobs, config, drawings, tally)
    tally.rows.sort(key=lambda row: row.slide_id)
    tally.failures.sort(key=lambda failure: failure.slide_id)
    mixture = _mixture(tally.rows)
    if mixture:
        reporter.warn(mixture)
    for note in said_origins(drawings, config, [row.slide_id for row in tally.rows if row.bounds]):
        reporter.note(note)
    outcome = _outcome(config, tally, len(entries), record)
    if not config.dry_run:
        _close(out, config, drawings, tally, {entry.slide_id for entry in entries}, outcome, record)
    if config.shard is None:
        _refuse_nothing(tally, len(entries))
    return outcome


def _unfinished(entries: Sequence[Entry], config: TileConfig, drawings: Drawings, tally: _Tally) -> dict[str, Job]:
    """The slides that are still to be done; those that are complete, or that may not be touched, go to the tally.

    :raises ConfigError: a file in the output was made under other settings or annotations.
    """
    jobs = {entry.slide_id: Job(entry, config, drawings.drawn(entry.slide_id)) for entry in entries}
    folder = patches_path(config, "").parent
    present = layout.trees(Path(config.out))
    _refuse_other_layout(config, folder, present)
    if config.overwrite:
        return jobs
    for path in layout.files(folder):
        if layout.slide_id(path) not in drawings.refused:
            _take_existing(path, jobs.pop(layout.slide_id(path), None), config, drawings, tally)
    return jobs


def _take_existing(path: Path, job: Job | None, config: TileConfig, drawings: Drawings, tally: _Tally) -> None:
    """Put a slide that has a file into the tally; a file of a slide that is not ours must only fit.

    :raises ConfigError: it was made under other settings or annotations.
    """
    try:
        made = PatchFile.open(path)
    except ArtefactError as error:
        if job is not None:
            tally.failures.append(_failure(job, error.message, "use --overwrite to make it again"))
        return
    _refuse_other_settings(made, config, drawings, job)
    if job is None:
        return
    try:
        _check_unchanged(job.entry, made)
    except SlideError as error:
        tally.failures.append(_failure(job, error.message, error.hint))
    else:
        tally.rows.append(_row_of(made))
        tally.skipped += 1


def _take_what_others_made(jobs: Mapping[str, Job], config: TileConfig, drawings: Drawings, tally: _Tally) -> None:
    """A slide that failed here counts as done where another run has done it since."""
    failed = {failure.slide_id for failure in tally.failures} & set(jobs)
    made = sorted(slide_id for slide_id in failed if patches_path(config, slide_id).exists())
    tally.failures = [failure for failure in tally.failures if failure.slide_id not in made]
    for slide_id in made:
        _take_existing(patches_path(config, slide_id), jobs[slide_id], config, drawings, tally)


def _set_refused_aside(jobs: dict[str, Job], drawings: Drawings, tally: _Tally) -> None:
    """Slides that lack what they need become failures."""
    for slide_id, error in drawings.refused.items():
        if (job := jobs.pop(slide_id, None)) is not None:
            tally.failures.append(_failure(job, error.message, error.hint))


def _refuse_other_layout(config: TileConfig, folder: Path, present: Sequence[Path]) -> None:
    """An output holds one folder of patches, so that the next stage knows which one is meant.

    :raises ConfigError: there are patches elsewhere in the output.
    """
    others = [path for path in present if path not in (folder, Path(config.out))]
    if others:
        raise ConfigError(
            f"{config.out} holds patches in {others[0].relative_to(config.out)}, made in another layout, resolution or size",
            "use another --out, or remove that folder",
        )


def _refuse_other_settings(made: PatchFile, config: TileConfig, drawings: Drawings, job: Job | None) -> None:
    changes = differences(made.config, config.affecting())
    if job is None:
        changes += renamed(made.label_names, drawings.names)
    else:
        changes += job.drawn.changes(made.source, made.label_names)
        for name, now in job.entry.given.items():
            before = made.source.get(f"given_{name}")
            if before != now:
                changes.append(f"{name} in --list was {before}, is {now}")
    if changes:
        raise ConfigError(
            f"{made.path} was made under other settings: {'; '.join(changes)}",
            "use the same settings, another --out, or --overwrite",
        )


def _check_unchanged(entry: Entry, made: PatchFile) -> None:
    """Compare a slide with the one that was tiled; its bytes are looked at only where size or time differ.

    :raises SlideError: it is another file now, or cannot be read any more.
    """
    if entry.path.is_file() and not entry.further and not companions(entry.path):
        status = entry.path.stat()
        if (status.st_size, status.st_mtime_ns) == (made.source.get("bytes"), made.source.get("modified_ns")):
            return
    if identity(entry.path, entry.further) != made.source.get("identity"):
        raise SlideError(f"{entry.path.name} has changed since it was tiled", "use --overwrite to tile it again")


def _row_of(made: PatchFile) -> Row:
    """The row of a slide that an earlier run tiled."""
    mpp, mpp_y = made.geometry.get("mpp_level0_xy") or [made.geometry["mpp_level0"]] * 2
    return Row(
        slide_id=made.slide_id,
        path=made.source["name"],
        patches=len(made),
        unreadable=len(made.source.get("unreadable", [])),
        overhanging=made.source.get("overhanging", 0),
        reason=made.reason,
        width=made.geometry["level0_width"],
        height=made.geometry["level0_height"],
        mpp=mpp,
        mpp_y=mpp_y,
        mpp_source=made.source["mpp_source"],
        mpp_actual=made.geometry["mpp_actual"],
        level=made.source["level"],
        tissue_mm2=made.source["tissue_mm2"],
        identity=made.source["identity"],
        id=made.id,
        tissue_preset=made.source.get("tissue_preset", ""),
        ink_mm2=made.source.get("ink_mm2"),
        bounds=spoken_bounds(made.source.get("bounds")),
        remarks=made.source.get("remarks", ""),
        labels=None if made.label is None else class_counts(made.label, made.label_names),
    )


def _remove_old(config: TileConfig, slide_ids: Iterable[str]) -> None:
    """Remove the patches of slides about to be tiled again, which a failure would leave among the new ones."""
    for slide_id in slide_ids:
        path = patches_path(config, slide_id)
        with store.writing(path):
            path.unlink(missing_ok=True)


def _run(
    work: Work | None, jobs: Mapping[str, Job], config: TileConfig, reporter: Reporter
) -> Iterator[Result[Row | Elsewhere]]:
    """All results as they come, with bars over slides and patches. A dry run takes no locks."""
    with reporter.task("slides", len(jobs), "slides") as slides, reporter.task("patches", None, "patches") as patches:
        shown = before = 0

        def show(done: int, expected: int) -> None:
            nonlocal shown
            if expected:
                patches.update(total=before + expected)
            patches.advance(max(0, before + done - shown))
            shown = max(before + done, shown)

        def run(free: Mapping[str, Job]) -> Iterator[Result[Row | Elsewhere]]:
            nonlocal before
            if config.dry_run:
                yield from _execute(work or survey_slide, {key: (job,) for key, job in free.items()}, config, show)
            else:
                tasks = {key: (work or tile_slide, job) for key, job in free.items()}
                yield from _execute(exclusively, tasks, config, show)
            before = shown

        for result in claimed(run, jobs, reporter):
            slides.advance()
            yield result


def _execute(
    function: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]], config: TileConfig, show: Callable[..., None]
) -> Iterator[Result[Any]]:
    """Tasks on the cluster where there is one, else in processes here, as those of a dry run always."""
    if config.dask is not None and not config.dry_run:
        return run_on_cluster(config.dask, function, tasks, timeout=config.slide_timeout, on_progress=show)
    return run_tasks(function, tasks, workers=_workers(config), timeout=config.slide_timeout, on_progress=show)


def _count(result: Result[Row | Elsewhere], job: Job, tally: _Tally, reporter: Reporter) -> None:
    """Put a result where it belongs.

    :raises ArtefactError: the output cannot be written, which no other slide would survive either.
    """
    error = result.error
    if isinstance(result.value, Row):
        tally.rows.append(result.value)
        warning = _shortcomings(result.value, job.config)
    elif isinstance(error, Lost):
        remedy = "the file may be damaged; or use fewer --workers if memory was short, or a longer --slide-timeout"
        tally.failures.append(_failure(job, f"given up after two attempts: {error.reason}", remedy))
        warning = ""
    elif isinstance(error, SgclError) and not isinstance(error, ArtefactError):
        tally.failures.append(_failure(job, error.message, error.hint))
        warning = ""
    elif isinstance(error, Exception) and not isinstance(error, ArtefactError):
        tally.failures.append(_failure(job, f"unexpected {type(error).__name__}: {error}", "please report this defect"))
        warning = "".join(traceback.format_exception(error))
    else:
        assert error is not None
        raise error
    if warning:
        tally.warn(warning, reporter)


def _mixture(rows: Sequence[Row]) -> str:
    """Scans at different resolutions may look different at the same one, which a model can learn instead of tissue."""
    found = [row.mpp for row in rows]
    if not found or max(found) <= _MIXED * min(found):
        return ""
    return (
        f"level 0 is {min(found):.4g} um/px on some slides, {max(found):.4g} on others: patches have one resolution, "
        "but not one sharpness"
    )


def _shortcomings(row: Row, config: TileConfig) -> str:
    said = [row.remarks] if row.remarks else []
    if row.mpp_actual > config.mpp * LEVEL_0_UPSAMPLING:
        said.append(
            f"level 0 is {row.mpp_actual:.4g} um/px, so patches at {config.mpp:g} hold less detail than they could"
        )
    if row.tissue_mm2 is not None and (row.ink_mm2 or 0) > _MUCH_INK * row.tissue_mm2:
        said.append(
            f"{row.ink_mm2:.2f} mm2 are taken for ink ({row.tissue_mm2:.2f} mm2 for tissue); look at its overlay, and use "
            "--ink off, or column ink of --list, where that is tissue"
        )
    if isinstance(row, Survey) and row.untried:
        said.append(f"{row.untried} of the patches tried cannot be read and would be left out")
    if row.unreadable:
        said.append(f"{row.unreadable} of {row.unreadable + row.patches} patches cannot be read and are left out")
    if row.overhanging:
        said.append(f"{row.overhanging} patches of its coordinate file hang over its edge and are left out")
    return f"{row.path}: {'; '.join(said)}" if said else ""


def _failure(job: Job, reason: str, hint: str) -> Failure:
    return Failure(job.entry.slide_id, job.entry.name, " ".join(reason.split()), hint)


def _outcome(config: TileConfig, tally: _Tally, total: int, record: RunRecord) -> Outcome:
    patches = sum(row.patches for row in tally.rows)
    unreadable = sum(row.unreadable for row in tally.rows)
    empty = sum(row.patches == 0 for row in tally.rows)
    peak = max((row.peak_mib for row in tally.rows if row.peak_mib is not None), default=None)
    headline = [
        ("slides", f"{len(tally.rows)} of {total}" + (f", {tally.skipped} from before" if tally.skipped else "")),
        ("patches", f"{patches:,}"),
        *([("unreadable patches", f"{unreadable:,}")] if unreadable else []),
        *([] if config.annotations is None else [("labels", _spoken_labels(tally.rows))]),
        *(_expected(tally.rows, _workers(config)) if config.dry_run else []),
        ("without patches", str(empty)),
        ("failed", str(len(tally.failures))),
        ("seconds", f"{record.seconds():.1f}"),
        *([] if peak is None else [("peak memory of a worker", f"{peak:.0f} MiB")]),
        ("output", "nothing written" if config.dry_run else config.out),
    ]
    return Outcome(
        stage="tile",
        out=Path(config.out),
        headline=headline,
        total=total,
        failures=tally.failures,
        warnings=[*tally.warnings, *filter(None, [_mixture(tally.rows)])],
        data={
            "slides": [asdict(row) for row in tally.rows],
            "patches": patches,
            "skipped": tally.skipped,
            "dry_run": config.dry_run,
        },
    )


def _expected(rows: Sequence[Row], workers: int) -> list[tuple[str, str]]:
    """Disk and time that tiling will take; slides that are complete already take none."""
    surveys = [row for row in rows if isinstance(row, Survey)]
    disk = [sum(row.least_bytes for row in surveys) / 2**20, sum(row.most_bytes for row in surveys) / 2**20]
    least = sum(row.least_seconds for row in surveys) / workers
    most = max(sum(row.most_seconds for row in surveys) / workers, *(row.most_seconds for row in surveys), 0.0)
    how = f"with {workers} workers" if workers > 1 else "with 1 worker"
    return [
        ("expected on disk", f"{disk[0]:,.1f} to {disk[1]:,.1f} MiB"),
        ("expected time", f"{least:,.0f} to {most:,.0f} s {how}"),
        ("these bounds", f"from at most {TRIED} patches of each slide"),
    ]


def _spoken_labels(rows: Sequence[Row]) -> str:
    """The patches of each class, most frequent first."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.labels or {})
    unknown = sum(row.patches for row in rows) - total.total()
    return ", ".join([*(f"{name} {count:,}" for name, count in total.most_common()), f"unknown {unknown:,}"])


def _close(
    out: Path,
    config: TileConfig,
    drawings: Drawings,
    tally: _Tally,
    slide_ids: Set[str],
    outcome: Outcome,
    record: RunRecord,
) -> None:
    """Write the tables and the page of the whole output, unless another run has taken this part in meanwhile."""
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
            _write_tables(out, config, drawings, tally, parts.gather(out, mine, slide_ids), outcome, record)


def _write_tables(
    out: Path,
    config: TileConfig,
    drawings: Drawings,
    tally: _Tally,
    gathered: parts.Gathered,
    outcome: Outcome,
    record: RunRecord,
) -> None:
    """slides.csv, failures.csv, index.html and, last, run.json, from all files of patches and what all runs say."""
    said = gathered.parts
    failures = sorted({each.slide_id: each for part in said for each in part.failures}.values(), key=_by_id)
    rows = _all_rows(config, drawings, tally, {failure.slide_id for failure in failures})
    rows = _with_measured(out, rows, said)
    warned = {row.slide_id: _shortcomings(row, config) for row in rows}
    heard = dict.fromkeys([*(warning for part in said for warning in part.warnings), _mixture(rows)])
    warnings = [warning for warning in heard if warning]
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
        parts=[part.as_record() for part in said],
    )
    gathered.clear()


def _by_id(what: Row | Failure) -> str:
    return what.slide_id


def _all_rows(config: TileConfig, drawings: Drawings, tally: _Tally, failed: Set[str]) -> list[Row]:
    """A row for every file of patches, whoever made it; those of failed slides, and those that do not fit, left out."""
    known = {row.slide_id: row for row in tally.rows}
    rows = []
    for path in layout.files(patches_path(config, "").parent):
        slide_id = layout.slide_id(path)
        if slide_id in failed:
            continue
        if slide_id not in known:
            try:
                made = PatchFile.open(path)
                _refuse_other_settings(made, config, drawings, None)
            except (ArtefactError, ConfigError):
                continue
            known[slide_id] = _row_of(made)
        rows.append(known[slide_id])
    return sorted(rows, key=_by_id)


def _write_slides(out: Path, rows: Sequence[Row]) -> None:
    cells = [
        asdict(row) | {"labels": "" if row.labels is None else json.dumps(row.labels, ensure_ascii=False)}
        for row in rows
    ]
    store.write_csv(out / "slides.csv", [column.name for column in fields(Row)], cells)


def _with_measured(out: Path, rows: Sequence[Row], said: Iterable[Part]) -> list[Row]:
    """The rows; those of slides that this run did not tile now with what was measured then, as slides.csv or a part has it."""
    path, measured = out / "slides.csv", ("seconds", "peak_mib")
    try:
        table = store.read_table(path, ["id", *measured]) if path.exists() else []
        before = {row["id"]: [float(row[name]) if row[name] else None for name in measured] for row in table}
    except (SgclError, ValueError):
        before = {}
    for part in said:
        before |= part.measured
    kept = []
    for row in rows:
        seconds, peak = before.get(row.id, (None, None)) if row.seconds is None else (row.seconds, row.peak_mib)
        kept.append(replace(row, seconds=seconds, peak_mib=peak))
    return kept


def _refuse_nothing(tally: _Tally, total: int) -> None:
    """Where no slide gave a patch, the output is of no use."""
    if any(row.patches for row in tally.rows):
        return
    if not tally.rows:
        first = tally.failures[0]
        if total == 1:
            raise SlideError(first.reason, first.hint)
        raise SlideError(
            f"none of {total} slides could be tiled; first {first.path}: {first.reason}",
            first.hint if len({failure.hint for failure in tally.failures}) == 1 else "failures.csv has all reasons",
        )
    raise SlideError(
        f"none of {total} slides gave a patch; first {tally.rows[0].path}: {tally.rows[0].reason}",
        "look at the overlays; lower --min-tissue or use smaller patches",
    )


def _series_of(config: TileConfig) -> Callable[[list[Path]], list[str | None]]:
    """The series of DICOM files, asked of OpenSlide in a worker: some of them might crash it."""

    def ask(paths: list[Path]) -> list[str | None]:
        tasks = {str(path): (path,) for path in paths}
        results = run_tasks(_series, tasks, workers=_workers(config), timeout=_SERIES_TIMEOUT)
        series = {result.key: result.value for result in results}
        return [series[str(path)] for path in paths]

    return ask


def _series(progress: Progress, path: Path) -> str | None:
    return dicom_series(path)


def _workers(config: TileConfig) -> int:
    if config.workers is not None:
        return config.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
