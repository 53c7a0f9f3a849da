"""Existing files of patches: kept if they were made under the same settings, else refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sgcl_cli.artefacts import layout, store
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.config import TileConfig, differences
from sgcl_cli.errors import ArtefactError, ConfigError, SlideError, UnavailableError
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.files import companions, identity
from sgcl_cli.stages.tile.annotations import Drawings, renamed
from sgcl_cli.stages.tile.job import Job, Row, bounds_text, class_counts, patches_path
from sgcl_cli.stages.tile.tally import SlideTally, failure_of


def unfinished(entries: Sequence[Entry], config: TileConfig, drawings: Drawings, tally: SlideTally) -> dict[str, Job]:
    """The jobs that remain; complete slides, and those with a file that cannot be read or has changed, are added to the tally.

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
            take_existing(path, jobs.pop(layout.slide_id(path), None), config, drawings, tally)
    return jobs


def take_existing(path: Path, job: Job | None, config: TileConfig, drawings: Drawings, tally: SlideTally) -> None:
    """Add a slide that has a file of patches to the tally; of slides that are not in this run only the settings are checked.

    :raises ConfigError: the file was made under other settings or annotations.
    """
    try:
        made = PatchFile.open(path)
    except ArtefactError as error:
        if job is not None:
            remedy = error.hint if isinstance(error, UnavailableError) else "use --overwrite to make it again"
            tally.failures.append(failure_of(job, error.message, remedy))
        return
    refuse_other_settings(made, config, drawings, job)
    if job is None:
        return
    try:
        _check_unchanged(job.entry, made)
    except SlideError as error:
        tally.failures.append(failure_of(job, error.message, error.hint))
    else:
        tally.rows.append(row_of(made))
        tally.skipped += 1


def take_what_others_made(jobs: Mapping[str, Job], config: TileConfig, drawings: Drawings, tally: SlideTally) -> None:
    """Count a slide that failed in this run as complete if another run has completed it since."""
    failed = {failure.slide_id for failure in tally.failures} & set(jobs)
    made = sorted(slide_id for slide_id in failed if patches_path(config, slide_id).exists())
    tally.failures = [failure for failure in tally.failures if failure.slide_id not in made]
    for slide_id in made:
        take_existing(patches_path(config, slide_id), jobs[slide_id], config, drawings, tally)


def _refuse_other_layout(config: TileConfig, folder: Path, present: Sequence[Path]) -> None:
    """Refuse a second folder of patches in an output, as the next stage could not choose between them.

    :raises ConfigError: there are patches in another folder of the output.
    """
    others = [path for path in present if path not in (folder, Path(config.out))]
    if others:
        raise ConfigError(
            f"{config.out} holds patches in {others[0].relative_to(config.out)}, made in another layout, resolution or size",
            "use another --out, or remove that folder",
        )


def refuse_other_settings(made: PatchFile, config: TileConfig, drawings: Drawings, job: Job | None) -> None:
    """Compare the settings of a file of patches with those of this run.

    :param job: of its slide; None if the slide is not in this run.
    :raises ConfigError: they differ.
    """
    changes = differences(made.config, config.affecting())
    if (made.source.get("layout") == "clam") != (config.layout == "clam"):
        changes.append(f"--layout was {made.source.get('layout', 'sgcl')}, is {config.layout}")
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
    """Check that a slide has not changed since it was tiled; its content is read only if size or time of modification differ.

    :raises SlideError: it has changed, or cannot be read.
    """
    if entry.path.is_file() and not entry.further and not companions(entry.path):
        status = entry.path.stat()
        if (status.st_size, status.st_mtime_ns) == (made.source.get("bytes"), made.source.get("modified_ns")):
            return
    if identity(entry.path, entry.further) != made.source.get("identity"):
        raise SlideError(f"{entry.path.name} has changed since it was tiled", "use --overwrite to tile it again")


def row_of(made: PatchFile) -> Row:
    """The row of a slide tiled by an earlier run."""
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
        bounds=bounds_text(made.source.get("bounds")),
        remarks=made.source.get("remarks", ""),
        labels=None if made.label is None else class_counts(made.label, made.label_names),
    )


def remove_old(config: TileConfig, slide_ids: Iterable[str]) -> None:
    """Remove patches of slides that will be tiled again, so that a failure leaves no old file among the new ones."""
    for slide_id in slide_ids:
        path = patches_path(config, slide_id)
        with store.writing(path):
            path.unlink(missing_ok=True)
