"""Results of a run: rows, failures, warnings, and the closing table."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Lost, Result
from sgcl_cli.errors import ArtefactError, SgclError, SlideError
from sgcl_cli.progress import Reporter
from sgcl_cli.slide.open.reader import LEVEL_0_UPSAMPLING
from sgcl_cli.stages.tile.annotations import Drawings
from sgcl_cli.stages.tile.claims import Elsewhere
from sgcl_cli.stages.tile.job import Job, Row, workers_of
from sgcl_cli.stages.tile.survey import TRIED, Survey

_MUCH_INK = 0.01  # of the area of tissue
_NOMINAL = 0.03  # usual relative difference of resolutions of one nominal magnification
_MIXED = 1.5  # largest ratio of resolutions of level 0 in a cohort without a warning


@dataclass
class SlideTally:
    """Results of the slides so far.

    :ivar rows: of tiled slides.
    :ivar failures: of slides that could not be tiled.
    :ivar warnings: on slides and on the cohort.
    :ivar skipped: number of slides that were complete before this run.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: int = 0

    def warn(self, warning: str, reporter: Reporter) -> None:
        self.warnings.append(warning)
        reporter.warn(warning)


def count(result: Result[Row | Elsewhere], job: Job, tally: SlideTally, reporter: Reporter) -> None:
    """Add a result to the tally.

    :raises ArtefactError: the output cannot be written, so that all other slides would fail, too.
    """
    error = result.error
    if isinstance(result.value, Row):
        tally.rows.append(result.value)
        warning = shortcomings_of(result.value, job.config)
    elif isinstance(error, Lost):
        remedy = "the file may be damaged; or use fewer --workers if memory was short, or a longer --slide-timeout"
        tally.failures.append(failure_of(job, f"failed twice: {error.reason}", remedy))
        warning = ""
    elif isinstance(error, SgclError) and not isinstance(error, ArtefactError):
        tally.failures.append(failure_of(job, error.message, error.hint))
        warning = ""
    elif isinstance(error, Exception) and not isinstance(error, ArtefactError):
        tally.failures.append(
            failure_of(job, f"unexpected {type(error).__name__}: {error}", "please report this defect")
        )
        warning = "".join(traceback.format_exception(error))
    else:
        assert error is not None
        raise error
    if warning:
        tally.warn(warning, reporter)


def set_refused_aside(jobs: dict[str, Job], drawings: Drawings, tally: SlideTally) -> None:
    """Count slides with missing or unusable files of annotations or coordinates as failures, and remove their jobs."""
    for slide_id, error in drawings.refused.items():
        if (job := jobs.pop(slide_id, None)) is not None:
            tally.failures.append(failure_of(job, error.message, error.hint))


def mixed_resolutions(rows: Sequence[Row]) -> str:
    """A warning if level 0 differs much in resolution between slides, else ""; a model could learn which slides are sharper."""
    found = [row.mpp for row in rows]
    if not found or max(found) <= _MIXED * min(found):
        return ""
    return (
        f"level 0 is {min(found):.4g} µm/px on some slides, {max(found):.4g} on others: patches have the same resolution, "
        "but not the same sharpness"
    )


def shortcomings_of(row: Row, config: TileConfig) -> str:
    """A warning on a slide that was tiled; "" if there is none."""
    notes = [row.remarks] if row.remarks else []
    if config.from_coords is not None:
        if abs(row.mpp_actual / config.mpp - 1) > _NOMINAL:
            notes.append(f"the patches of its coordinate file are at {row.mpp_actual:.4g} µm/px, not at {config.mpp:g}")
    elif row.mpp_actual > config.mpp * LEVEL_0_UPSAMPLING:
        notes.append(
            f"level 0 is {row.mpp_actual:.4g} µm/px, so patches at {config.mpp:g} are enlarged and lack detail"
        )
    if row.tissue_mm2 is not None and (row.ink_mm2 or 0) > _MUCH_INK * row.tissue_mm2:
        notes.append(
            f"{row.ink_mm2:.2f} mm² are taken for ink ({row.tissue_mm2:.2f} mm² for tissue); check its overlay, and if that is "
            "tissue use --ink off, or column ink of --list"
        )
    if isinstance(row, Survey) and row.untried:
        notes.append(f"{row.untried} of the sampled patches cannot be read and would be left out")
    if row.unreadable:
        notes.append(f"{row.unreadable} of {row.unreadable + row.patches} patches cannot be read and are left out")
    if row.overhanging:
        notes.append(f"{row.overhanging} patches of its coordinate file extend beyond its edge and are left out")
    return f"{row.path}: {'; '.join(notes)}" if notes else ""


def failure_of(job: Job, reason: str, hint: str) -> Failure:
    """The failure of a job's slide, with the reason in one line."""
    return Failure(job.entry.slide_id, job.entry.name, " ".join(reason.split()), hint)


def outcome_of(config: TileConfig, tally: SlideTally, total: int, record: RunRecord) -> Outcome:
    """The closing table of a run, and its rows as JSON values.

    :param total: number of slides of the run.
    """
    patches = sum(row.patches for row in tally.rows)
    unreadable = sum(row.unreadable for row in tally.rows)
    empty = sum(row.patches == 0 for row in tally.rows)
    peak = max((row.peak_mib for row in tally.rows if row.peak_mib is not None), default=None)
    headline = [
        ("slides", f"{len(tally.rows)} of {total}" + (f", {tally.skipped} from before" if tally.skipped else "")),
        ("patches", f"{patches:,}"),
        *([("unreadable patches", f"{unreadable:,}")] if unreadable else []),
        *([] if config.annotations is None else [("labels", _labels_text(tally.rows))]),
        *(_expected(tally.rows, workers_of(config)) if config.dry_run else []),
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
        warnings=[*tally.warnings, *filter(None, [mixed_resolutions(tally.rows)])],
        data={
            "slides": [asdict(row) for row in tally.rows],
            "patches": patches,
            "skipped": tally.skipped,
            "dry_run": config.dry_run,
        },
    )


def _expected(rows: Sequence[Row], workers: int) -> list[tuple[str, str]]:
    """Expected disk space and time of tiling; slides that are complete need none."""
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


def _labels_text(rows: Sequence[Row]) -> str:
    """The number of patches of each class, most frequent first."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.labels or {})
    unknown = sum(row.patches for row in rows) - total.total()
    return ", ".join([*(f"{name} {count:,}" for name, count in total.most_common()), f"unknown {unknown:,}"])


def refuse_nothing(tally: SlideTally, total: int) -> None:
    """Refuse an output without any patch.

    :raises SlideError: no slide has patches.
    """
    if any(row.patches for row in tally.rows):
        return
    if not tally.rows:
        first = tally.failures[0]
        if total == 1:
            raise SlideError(first.reason, first.hint)
        raise SlideError(
            f"none of {total} slides could be tiled; the first, {first.path}: {first.reason}",
            first.hint if len({failure.hint for failure in tally.failures}) == 1 else "failures.csv has all reasons",
        )
    raise SlideError(
        f"none of {total} slides has a patch; the first, {tally.rows[0].path}: {tally.rows[0].reason}",
        "check the overlays; lower --min-tissue or use smaller patches",
    )
