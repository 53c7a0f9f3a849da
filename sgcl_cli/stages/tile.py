"""Slides in, patches out: the first stage.

Each slide is one task of the worker pool and one file of patches; ``tile_slide`` is what happens to it there.
"""

from __future__ import annotations

import json
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import PatchFile, folder_id
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, write_failures
from sgcl_cli.config import TileConfig, differences
from sgcl_cli.engine.pool import Lost, Progress, Result, run_tasks
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError, SlideError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.slide.discover import Entry, discover
from sgcl_cli.slide.reader import UPSAMPLING_ALLOWED, dicom_series, identity
from sgcl_cli.stages.cohort_page import write_page
from sgcl_cli.stages.drawings import Drawings, renamed, settle
from sgcl_cli.stages.tile_slide import TRIED, Job, Row, Survey, class_counts, patches_path, survey_slide, tile_slide

_SERIES_TIMEOUT = 60.0  # seconds
_MIXED = 1.5  # between the coarsest and the finest level 0 of a cohort

Work = Callable[[Progress, Job], Row]


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
    recorded, and the others go on. With ``dry_run`` nothing is written.

    :param work: what is done to each slide in a worker process; a function importable by name.
    :raises ConfigError: no slides, ids that collide, an output made under other settings or annotations.
    :raises LabelError: an annotation that cannot be read.
    :raises SlideError: no slide gave any patch.
    :raises ArtefactError: the output cannot be written.
    """
    reporter = reporter or Silent()
    record = RunRecord("tile", config)
    out = Path(config.out)
    table = None if config.list is None else Path(config.list)
    found = discover([Path(given) for given in config.slides], table, config.id_from, _series_of(config))
    if found.passed_over:
        reporter.note(found.passed_over)
    drawings = settle(config, found.entries, _workers(config))
    tally = _Tally()
    for note in drawings.notes:
        tally.warn(note, reporter)
    jobs = _unfinished(found.entries, config, drawings, tally)
    if tally.skipped:
        reporter.note(f"{tally.skipped} of {len(found.entries)} slides are complete already")
    if not config.dry_run:
        store.sweep(out)
        if config.overwrite:
            _remove_old(out, jobs)
    for result in _run(work or (survey_slide if config.dry_run else tile_slide), jobs, config, reporter):
        _count(result, jobs[result.key], tally, reporter)
    tally.rows.sort(key=lambda row: row.slide_id)
    tally.failures.sort(key=lambda failure: failure.slide_id)
    _warn_of_mixture(tally, reporter)
    outcome = _outcome(config, tally, len(found.entries), record)
    if not config.dry_run:
        rows = _with_measured_before(out, tally.rows)
        artefact = folder_id([row.id for row in rows])
        _write_slides(out, rows)
        write_failures(out, tally.failures)
        warned = {row.slide_id: _shortcomings(row, config) for row in rows}
        write_page(
            out,
            config,
            rows,
            tally.failures,
            warnings=[warning for warning in tally.warnings if warning not in warned.values()],
            warned=warned,
            names=drawings.names or (),
            artefact=artefact,
        )
        record.write(out, artefact=artefact, inputs={row.path: row.identity for row in rows}, outcome=outcome)
    _refuse_nothing(tally, len(found.entries))
    return outcome


def _unfinished(entries: Sequence[Entry], config: TileConfig, drawings: Drawings, tally: _Tally) -> dict[str, Job]:
    """The slides that are still to be done; those that are complete, or that may not be touched, go to the tally.

    :raises ConfigError: a file in the output was made under other settings or annotations.
    """
    jobs = {entry.slide_id: Job(entry, config, drawings.drawn(entry.slide_id)) for entry in entries}
    if config.overwrite:
        return jobs
    for path in sorted((Path(config.out) / "patches").glob("[!.]*.h5")):
        job = jobs.get(path.stem)
        try:
            made = PatchFile.open(path)
        except ArtefactError as error:
            if job is not None:
                del jobs[path.stem]
                tally.failures.append(_failure(job, error.message, "use --overwrite to make it again"))
            continue
        _refuse_other_settings(made, config, drawings, job)
        if job is None:
            continue
        del jobs[path.stem]
        try:
            _check_unchanged(job.entry, made)
        except SlideError as error:
            tally.failures.append(_failure(job, error.message, error.hint))
        else:
            tally.rows.append(_row_of(made))
            tally.skipped += 1
    return jobs


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
    if entry.path.exists():
        status = entry.path.stat()
        if (status.st_size, status.st_mtime_ns) == (made.source.get("bytes"), made.source.get("modified_ns")):
            return
    if identity(entry.path) != made.source.get("identity"):
        raise SlideError(f"{entry.path.name} has changed since it was tiled", "use --overwrite to tile it again")


def _row_of(made: PatchFile) -> Row:
    """The row of a slide that an earlier run tiled."""
    return Row(
        slide_id=made.slide_id,
        path=made.source["name"],
        patches=len(made),
        unreadable=len(made.source.get("unreadable", [])),
        reason=made.reason,
        width=made.geometry["level0_width"],
        height=made.geometry["level0_height"],
        mpp=made.geometry["mpp_level0"],
        mpp_source=made.source["mpp_source"],
        mpp_actual=made.geometry["mpp_actual"],
        level=made.source["level"],
        tissue_mm2=made.source["tissue_mm2"],
        identity=made.source["identity"],
        id=made.id,
        tissue_preset=made.source.get("tissue_preset", ""),
        labels=None if made.label is None else class_counts(made.label, made.label_names),
    )


def _remove_old(out: Path, slide_ids: Iterable[str]) -> None:
    """Remove the patches of slides about to be tiled again, which a failure would leave among the new ones."""
    for slide_id in slide_ids:
        path = patches_path(out, slide_id)
        with store.writing(path):
            path.unlink(missing_ok=True)


def _run(work: Work, jobs: dict[str, Job], config: TileConfig, reporter: Reporter) -> Iterator[Result[Row]]:
    """All results as they come, with bars over slides and patches."""
    shown = 0
    with reporter.task("slides", len(jobs), "slides") as slides, reporter.task("patches", None, "patches") as patches:

        def show(done: int, expected: int) -> None:
            nonlocal shown
            if expected:
                patches.update(total=expected)
            patches.advance(max(0, done - shown))
            shown = max(done, shown)

        tasks = {key: (job,) for key, job in jobs.items()}
        for result in run_tasks(work, tasks, workers=_workers(config), timeout=config.slide_timeout, on_progress=show):
            slides.advance()
            yield result


def _count(result: Result[Row], job: Job, tally: _Tally, reporter: Reporter) -> None:
    """Put a result where it belongs.

    :raises ArtefactError: the output cannot be written, which no other slide would survive either.
    """
    error = result.error
    if result.value is not None:
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


def _warn_of_mixture(tally: _Tally, reporter: Reporter) -> None:
    """Scans at different resolutions may look different at the same one, which a model can learn instead of tissue."""
    found = [row.mpp for row in tally.rows]
    if found and max(found) > _MIXED * min(found):
        tally.warn(
            f"level 0 is {min(found):.4g} um/px on some slides, {max(found):.4g} on others: patches have one resolution, "
            "but not one sharpness",
            reporter,
        )


def _shortcomings(row: Row, config: TileConfig) -> str:
    said = []
    if row.mpp_actual > config.mpp * UPSAMPLING_ALLOWED:
        said.append(
            f"level 0 is {row.mpp_actual:.4g} um/px, so patches at {config.mpp:g} hold less detail than they could"
        )
    if row.unreadable:
        said.append(f"{row.unreadable} of {row.unreadable + row.patches} patches cannot be read and are left out")
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
        ("peak memory of a worker", "unknown" if peak is None else f"{peak:.0f} MiB"),
        ("output", "nothing written" if config.dry_run else config.out),
    ]
    return Outcome(
        stage="tile",
        out=Path(config.out),
        headline=headline,
        total=total,
        failures=tally.failures,
        warnings=tally.warnings,
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


def _write_slides(out: Path, rows: Sequence[Row]) -> None:
    cells = [
        asdict(row) | {"labels": "" if row.labels is None else json.dumps(row.labels, ensure_ascii=False)}
        for row in rows
    ]
    store.write_csv(out / "slides.csv", [column.name for column in fields(Row)], cells)


def _with_measured_before(out: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows; those of slides that were skipped now with what an earlier run measured, from its slides.csv."""
    path, measured = out / "slides.csv", ("seconds", "peak_mib")
    try:
        table = store.read_table(path, ["id", *measured]) if path.exists() else []
        before = {row["id"]: [float(row[name]) if row[name] else None for name in measured] for row in table}
    except (SgclError, ValueError):
        before = {}
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
