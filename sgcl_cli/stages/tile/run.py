"""The command ``sgcl tile``: a cohort of slides to files of patches.

Each slide is one task of the worker pool (``tile_slide``) and one file of patches. Several runs, such as the shards of one
command, may write to one output at the same time: slides are locked individually, and the tables are written from all files of
patches and the records of all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import lock
from sgcl_cli.artefacts.results import Outcome, RunRecord, check_free
from sgcl_cli.config import TileConfig
from sgcl_cli.config.tile import parse_shard
from sgcl_cli.engine.pool import Progress, Result, run_tasks
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.slide.open.backends.openslide import dicom_series
from sgcl_cli.slide.open.discover import discover
from sgcl_cli.stages.tile.annotations import origin_notes, settle
from sgcl_cli.stages.tile.claims import Elsewhere, Work, claimed, exclusively, settings_of, shard_of
from sgcl_cli.stages.tile.existing import remove_old, take_existing, take_what_others_made, unfinished
from sgcl_cli.stages.tile.job import Job, Row, patches_path, workers_of
from sgcl_cli.stages.tile.slide import tile_slide
from sgcl_cli.stages.tile.survey import survey_slide
from sgcl_cli.stages.tile.tables import close
from sgcl_cli.stages.tile.tally import (
    SlideTally,
    count,
    mixed_resolutions,
    outcome_of,
    refuse_nothing,
    set_refused_aside,
)

_SERIES_TIMEOUT = 60.0  # seconds


def tile(config: TileConfig, reporter: Reporter | None = None, work: Work | None = None) -> Outcome:
    """Tile slides: patches, thumbnails, overlays, contours, slides.csv, failures.csv, index.html and run.json under ``out``.

    Slides that are complete under the same settings are skipped, failed ones are tried again. A slide that cannot be used is
    recorded, and the others are tiled. With ``dry_run`` nothing is written. With ``shard`` only a part of the slides is tiled;
    the tables cover all runs on this output.

    :param work: function that processes a slide in a worker process, importable by name; default ``tile_slide``.
    :raises ConfigError: no slides, ids that collide, an output made under other settings or annotations.
    :raises LabelError: an annotation that cannot be read.
    :raises SlideError: no slide gave any patch.
    :raises ArtefactError: the output cannot be written.
    """
    check_free(Path(config.out), "tile")
    with nullcontext() if config.dry_run else lock.claimed(Path(config.out), settings_of(config)):
        return _tile(config, reporter or Silent(), work)


def _tile(config: TileConfig, reporter: Reporter, work: Work | None) -> Outcome:
    record = RunRecord("tile", config)
    out = Path(config.out)
    table = None if config.list is None else Path(config.list)
    found = discover([Path(given) for given in config.slides], table, config.id_from, _series_of(config))
    for note in filter(None, (found.passed_over, found.unused)):
        reporter.note(note)
    drawings = settle(config, found.entries, workers_of(config))
    tally = SlideTally()
    for note in drawings.notes:
        tally.warn(note, reporter)
    entries = shard_of(found.entries, parse_shard(config.shard))
    if config.shard is not None:
        reporter.note(f"shard {config.shard}: {len(entries)} of {len(found.entries)} slides")
    jobs = unfinished(entries, config, drawings, tally)
    if tally.skipped:
        reporter.note(f"{tally.skipped} of {len(entries)} slides are complete already")
    if not config.dry_run:
        lock.sweep(out)
        if config.overwrite:
            remove_old(config, jobs)
    set_refused_aside(jobs, drawings, tally)
    for result in _run(work, jobs, config, reporter):
        if result.value is Elsewhere.DONE:
            take_existing(patches_path(config, result.key), jobs[result.key], config, drawings, tally)
        else:
            count(result, jobs[result.key], tally, reporter)
    if not config.dry_run:
        take_what_others_made(jobs, config, drawings, tally)
    tally.rows.sort(key=lambda row: row.slide_id)
    tally.failures.sort(key=lambda failure: failure.slide_id)
    mixture = mixed_resolutions(tally.rows)
    if mixture:
        reporter.warn(mixture)
    for note in origin_notes(drawings, config, [row.slide_id for row in tally.rows if row.bounds]):
        reporter.note(note)
    outcome = outcome_of(config, tally, len(entries), record)
    if not config.dry_run:
        slide_ids = {entry.slide_id for entry in entries}
        close(out, config, drawings, tally, slide_ids=slide_ids, outcome=outcome, record=record)
    if config.shard is None:
        refuse_nothing(tally, len(entries))
    return outcome


def _run(
    work: Work | None, jobs: Mapping[str, Job], config: TileConfig, reporter: Reporter
) -> Iterator[Result[Row | Elsewhere]]:
    """Process all jobs; yields results as they finish. A dry run has no bar of patches and takes no locks."""
    reading = Silent() if config.dry_run else reporter
    with reporter.task("slides", len(jobs), "slides") as slides, reading.task("patches", None, "patches") as patches:
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
    """Run tasks on the dask cluster if one is given, else in local processes; a dry run is always local."""
    if config.dask is not None and not config.dry_run:
        from sgcl_cli.engine.cluster import run_on_cluster  # which workers need not load

        return run_on_cluster(config.dask, function, tasks, timeout=config.slide_timeout, on_progress=show)
    return run_tasks(function, tasks, workers=workers_of(config), timeout=config.slide_timeout, on_progress=show)


def _series_of(config: TileConfig) -> Callable[[list[Path]], list[str | None]]:
    """A function that reads the series of DICOM files in worker processes, since OpenSlide might crash on some."""

    def ask(paths: list[Path]) -> list[str | None]:
        tasks = {str(path): (path,) for path in paths}
        results = run_tasks(_series, tasks, workers=workers_of(config), timeout=_SERIES_TIMEOUT)
        series = {result.key: result.value for result in results}
        return [series[str(path)] for path in paths]

    return ask


def _series(progress: Progress, path: Path) -> str | None:
    return dicom_series(path)
