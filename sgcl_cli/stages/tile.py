"""Slides in, patches out: the first stage.

Each slide is one task of the worker pool and one file of patches. Its pictures are written first, the file of patches last,
so a slide whose file exists is complete.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import SCHEMA, PatchFile, PatchWriter, folder_id
from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, write_failures
from sgcl_cli.config import TileConfig, differences
from sgcl_cli.engine.pool import Lost, Progress, Result, run_tasks
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError, SlideError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.slide import bands, direct, jpeg, lossless, overlay
from sgcl_cli.slide.annotations import Labels, label_patches, region_mask
from sgcl_cli.slide.discover import Entry, discover
from sgcl_cli.slide.lattice import Geometry, Lattice, cells, lay
from sgcl_cli.slide.lattice import shares as lattice_shares
from sgcl_cli.slide.reader import UPSAMPLING_ALLOWED, Slide, Thumbnail, dicom_series, identity
from sgcl_cli.slide.tiff import check_whole
from sgcl_cli.slide.tissue import pen_mask, smooth_mask, tissue_mask
from sgcl_cli.stages.cohort_page import write_page
from sgcl_cli.stages.drawings import Drawings, Drawn, annotation_of, renamed, roi_of, settle

_MAGNIFICATIONS = (5, 10, 20, 40, 60, 80)  # the bins of TRIDENT
_PICTURE_QUALITY = 85
_SERIES_TIMEOUT = 60.0  # seconds
_TRIED = 5  # patches of each slide in a dry run
_COLUMN_BYTES = 48  # of a patch, besides its pixels
_MIXED = 1.5  # between the coarsest and the finest level 0 of a cohort


@dataclass(frozen=True)
class Job:
    """What a worker needs to tile one slide."""

    entry: Entry
    config: TileConfig
    drawn: Drawn = field(default_factory=Drawn)


@dataclass(frozen=True)
class Row:
    """One slide in slides.csv: width and height in level-0 pixels, resolutions in um per pixel.

    ``unreadable`` patches could not be decoded and are left out; ``path`` in the source of the patches file says how it was read.
    ``labels`` counts the patches of each class that occurs. ``seconds`` and ``peak_mib`` (of the worker so far) belong to the
    run that made the file.
    """

    slide_id: str
    path: str
    patches: int
    unreadable: int
    reason: str
    width: int
    height: int
    mpp: float
    mpp_source: str
    mpp_actual: float
    level: int
    tissue_mm2: float | None
    identity: str
    id: str = ""
    labels: dict[str, int] | None = None
    seconds: float | None = None
    peak_mib: float | None = None


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


def tile_slide(progress: Progress, job: Job) -> Row:
    """Tile one slide; what ``tile`` does in each worker.

    :raises SlideError: the slide cannot be used.
    :raises ArtefactError: its files cannot be written.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config, out = job.config, Path(job.config.out)
    with _open(job) as slide:
        row, geometry, thumbnail, mask, lattice, labels = _lay(slide, job)
        progress.expect(len(lattice))
        with PatchWriter(_patches_path(out, row.slide_id)) as writer:
            reading = _read(writer, slide, lattice, geometry, config, progress)
            if reading.unreadable:
                lattice = lattice.where(reading.readable)
                labels = _labels(slide, job, lattice, geometry)
            row = replace(
                _counted(row, job, mask, lattice, labels),
                unreadable=len(reading.unreadable),
                mpp_actual=max(row.mpp_actual, reading.mpp),
            )
            label = None if labels is None else labels.label
            picture = overlay.draw(thumbnail.pixels, mask, lattice, geometry.patch_size_level0, thumbnail.scale, label)
            contours = json.dumps(overlay.outlines(mask, thumbnail.scale), separators=(",", ":"))
            store.write_bytes(
                out / "thumbnails" / f"{row.slide_id}.jpg", jpeg.encode(thumbnail.pixels, _PICTURE_QUALITY)
            )
            store.write_bytes(out / "overlays" / f"{row.slide_id}.jpg", jpeg.encode(picture, _PICTURE_QUALITY))
            if not job.drawn.roi_is(out / "contours" / f"{row.slide_id}.geojson"):
                store.write_text(out / "contours" / f"{row.slide_id}.geojson", contours)
            shares = _shares(thumbnail, mask, slide.size, geometry, lattice, labels)
            _finish(writer, slide, job, row, geometry, lattice, reading, label, shares)
    return replace(row, seconds=round(time.perf_counter() - started, 3), peak_mib=_peak_mib())


@dataclass(frozen=True)
class Survey(Row):
    """A row with bounds on what tiling the slide will take: bytes on disk, and seconds of one worker."""

    least_bytes: int = 0
    most_bytes: int = 0
    least_seconds: float = 0.0
    most_seconds: float = 0.0


def survey_slide(progress: Progress, job: Job) -> Survey:
    """Find the patches of one slide and try some; what ``tile`` does in each worker of a dry run.

    The bounds are those of the tried patches, read one by one, for all.

    :raises SlideError: the slide cannot be used.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config = job.config
    with _open(job) as slide:
        row, geometry, thumbnail, mask, lattice, labels = _lay(slide, job)
        label = None if labels is None else labels.label
        picture = overlay.draw(thumbnail.pixels, mask, lattice, geometry.patch_size_level0, thumbnail.scale, label)
        pictures = sum(len(jpeg.encode(pixels, _PICTURE_QUALITY)) for pixels in (thumbnail.pixels, picture))
        before = time.perf_counter() - started
        tried = np.unique(np.linspace(0, len(lattice) - 1, min(_TRIED, len(lattice))).astype(int)).tolist()
        sizes, seconds = [], []
        for number in [] if config.coords_only else tried:
            begun = time.perf_counter()
            side = geometry.patch_size_level0
            patch = slide.region(lattice.coords[number].tolist(), (side, side), (config.patch_size,) * 2)
            sizes.append(len(jpeg.encode(patch, config.jpeg_quality)))
            seconds.append(time.perf_counter() - begun)
    fixed = pictures + len(lattice) * _COLUMN_BYTES
    return Survey(
        **{spec.name: getattr(row, spec.name) for spec in fields(Row)},
        least_bytes=fixed + len(lattice) * min(sizes, default=0),
        most_bytes=fixed + len(lattice) * max(sizes, default=0),
        least_seconds=before + len(lattice) * min(seconds, default=0.0),
        most_seconds=before + len(lattice) * max(seconds, default=0.0),
    )


def _lay(slide: Slide, job: Job) -> tuple[Row, Geometry, Thumbnail, NDArray[np.bool_], Lattice, Labels | None]:
    """Where the slide's patches lie and what they are called; all that is known before reading them."""
    row, geometry = _plan(slide, job)
    thumbnail = slide.thumbnail()
    mask = _where(thumbnail, job)
    lattice = lay(mask | thumbnail.unreadable, slide.size, geometry, job.config.min_tissue)
    labels = _labels(slide, job, lattice, geometry)
    row = replace(row, tissue_mm2=round(float(mask.sum()) * thumbnail.mpp**2 / 1e6, 4))
    return _counted(row, job, mask, lattice, labels), geometry, thumbnail, mask, lattice, labels


def _counted(row: Row, job: Job, mask: NDArray[np.bool_], lattice: Lattice, labels: Labels | None) -> Row:
    """The row with the patches counted, or why there are none."""
    return replace(
        row,
        patches=len(lattice),
        reason=_why_empty(bool(mask.any()), job) if not len(lattice) else "",
        labels=None if labels is None else _counts(labels.label, job.drawn.names or ()),
    )


def _open(job: Job) -> Slide:
    check_whole(job.entry.path)
    return Slide(job.entry.path, given_mpp=job.entry.mpp, default_mpp=job.config.slide_mpp)


def _plan(slide: Slide, job: Job) -> tuple[Row, Geometry]:
    """The slide's row as far as it is known before looking at pixels."""
    config, entry = job.config, job.entry
    if not config.allow_upsample:
        slide.check_resolves(config.mpp)
    geometry = Geometry(config.patch_size, config.overlap, config.mpp, slide.mpp)
    if cells(slide.size, geometry) == 0:
        side = geometry.patch_size_level0
        raise SlideError(
            f"{entry.path.name}: a patch covers {side:.0f} x {side:.0f} level-0 pixels, the slide has "
            f"{slide.size[0]} x {slide.size[1]}",
            "use a smaller --patch-size or --mpp",
        )
    level = slide.best_level(config.mpp)
    unique = identity(entry.path)
    row = Row(
        slide_id=entry.slide_id,
        path=entry.name,
        patches=0,
        unreadable=0,
        reason="",
        width=slide.size[0],
        height=slide.size[1],
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        mpp_actual=max(config.mpp, slide.mpp * slide.downsamples[level]),
        level=level,
        tissue_mm2=None,
        identity=unique,
        id=store.artefact_id(
            SCHEMA.format,
            config.affecting(),
            [entry.slide_id, unique, *([] if entry.mpp is None else [str(entry.mpp)]), *job.drawn.sources],
        ),
    )
    return row, geometry


def _where(thumbnail: Thumbnail, job: Job) -> NDArray[np.bool_]:
    """Where patches may lie: tissue, or the region of interest, or tissue within it; bool (H, W) of the thumbnail."""
    regions = roi_of(job.drawn)
    if regions is None:
        return tissue_mask(thumbnail.pixels, thumbnail.mpp)
    height, width = thumbnail.pixels.shape[:2]
    inside = region_mask(regions, (height, width), thumbnail.scale)
    return inside if job.config.roi_mode == "replace" else inside & tissue_mask(thumbnail.pixels, thumbnail.mpp)


def _labels(slide: Slide, job: Job, lattice: Lattice, geometry: Geometry) -> Labels | None:
    """The patches' classes; None where the cohort has no annotations."""
    if job.drawn.names is None:
        return None
    annotation = annotation_of(job.drawn, job.config, slide.size, slide.mpp)
    return label_patches(annotation, job.drawn.names, job.config.label_rule, lattice, geometry, slide.size)


def _shares(
    thumbnail: Thumbnail,
    mask: NDArray[np.bool_],
    size: tuple[int, int],
    geometry: Geometry,
    lattice: Lattice,
    labels: Labels | None,
) -> dict[str, NDArray[np.float32]]:
    """The optional shares of each patch, as seen on the thumbnail."""
    seen = {"blur": mask & smooth_mask(thumbnail.pixels), "pen": pen_mask(thumbnail.pixels, thumbnail.mpp)}
    shares = {name: lattice_shares(shown, size, geometry, lattice) for name, shown in seen.items()}
    return shares if labels is None else shares | {"label_share": labels.share}


def _counts(label: NDArray[np.int16], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(label[label >= 0], minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


@dataclass(frozen=True)
class _Reading:
    """How the pixels were read.

    :ivar path: "direct", "openslide", or "none".
    :ivar why: why this way was taken.
    :ivar mpp: um per pixel of what was decoded, 0 where nothing was.
    :ivar readable: bool (N,), the patches that could be read.
    :ivar unreadable: x, y of the corners of those that could not, level-0 pixels.
    """

    path: str
    why: str
    mpp: float
    readable: NDArray[np.bool_]
    unreadable: list[list[int]]


def _read(
    writer: PatchWriter, slide: Slide, lattice: Lattice, geometry: Geometry, config: TileConfig, progress: Progress
) -> _Reading:
    """Read, encode and write the patches, band by band, in the lattice's order.

    :raises SlideError: none of them can be read.
    """
    readable = np.ones(len(lattice), np.bool_)
    if config.coords_only or not len(lattice):
        return _Reading("none", "coordinates alone" if config.coords_only else "no patches", 0.0, readable, [])
    corners, patch = lattice.coords, bands.Patch(geometry.patch_size_level0, config.patch_size)
    first: SlideError | None = None
    with direct.opened(slide, corners, patch) as (source, plan):
        if config.lossless:
            files = lossless.files(source, corners, patch, config.jpeg_quality)
        else:
            files = _encoded(slide, source, plan, corners, patch, config.jpeg_quality)
        for position, file in files:
            progress.advance()
            if isinstance(file, bytes):
                writer.append(file)
            else:
                readable[position] = False
                first = first or file
        if first is not None and not readable.any():
            raise SlideError(f"none of {len(lattice)} patches can be read; first: {first.message}", first.hint)
        return _Reading(source.path, source.why, slide.mpp * source.pitch, readable, corners[~readable].tolist())


def _encoded(
    slide: Slide,
    source: bands.Source,
    plan: list[bands.Band],
    corners: NDArray[np.int64],
    patch: bands.Patch,
    quality: int,
) -> Iterator[tuple[int, bytes | SlideError]]:
    """The JPEG files of all patches in their order; those of a band wait for each other."""
    for band in plan:
        read: dict[int, bytes | SlideError] = {}
        for position, pixels in bands.read(slide, source, band, corners, patch):
            read[position] = pixels if isinstance(pixels, SlideError) else jpeg.encode(pixels, quality)
        yield from sorted(read.items(), key=lambda item: item[0])


def _finish(
    writer: PatchWriter,
    slide: Slide,
    job: Job,
    row: Row,
    geometry: Geometry,
    lattice: Lattice,
    reading: _Reading,
    label: NDArray[np.int16] | None,
    shares: Mapping[str, NDArray[np.float32]],
) -> None:
    status = job.entry.path.stat()
    writer.finish(
        coords=lattice.coords,
        grid=lattice.grid,
        tissue=lattice.tissue,
        label=label,
        shares=shares,
        attributes={
            "id": row.id,
            "slide_id": row.slide_id,
            "config": job.config.affecting(),
            "source": {
                "name": row.path,
                "bytes": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "identity": row.identity,
                "given_mpp": job.entry.mpp,
                "mpp_source": row.mpp_source,
                "level": row.level,
                "tissue_mm2": row.tissue_mm2,
                **job.drawn.as_source(),
                "path": reading.path,
                "path_why": reading.why,
                "unreadable": reading.unreadable,
            },
            "reason": row.reason,
            **({} if label is None else {"label_names": job.drawn.names}),
        },
        coords_attributes=_coords_attributes(slide, job.config, row, geometry),
        pixels=not job.config.coords_only,
    )


def _coords_attributes(slide: Slide, config: TileConfig, row: Row, geometry: Geometry) -> dict[str, Any]:
    """What readers of TRIDENT and CLAM look for, right or left out, and the exact resolution.

    CLAM counts ``patch_size`` in pixels of ``patch_level``, TRIDENT in pixels at the target; only where a level has the
    target's resolution to within half a level-0 pixel over a patch are both true.
    """
    attributes: dict[str, Any] = {
        "patch_size": config.patch_size,
        "patch_size_level0": geometry.patch_size_level0,
        "level0_magnification": _magnification(slide.mpp),
        "target_magnification": _magnification(config.mpp),
        "overlap": config.overlap,
        "name": row.slide_id,
        "savetodir": "patches",
        "save_path": "patches",
        "level0_width": row.width,
        "level0_height": row.height,
        "mpp_level0": row.mpp,
        "mpp_target": config.mpp,
        "mpp_actual": row.mpp_actual,
        "stride": config.patch_size - config.overlap,
        "stride0": geometry.stride_level0,
    }
    downsample = slide.downsamples[row.level]
    if abs(config.patch_size * downsample - geometry.patch_size_level0) <= 0.5:
        attributes |= {
            "patch_level": row.level,
            "downsample": np.array([downsample, downsample]),
            "level_dim": np.array(slide.level_sizes[row.level]),
            "downsampled_level_dim": np.array(slide.level_sizes[row.level]),
        }
    return attributes


def _magnification(mpp: float) -> int:
    """The usual name of a resolution: 10 um per pixel over it, in the nearest bin by ratio."""
    return min(_MAGNIFICATIONS, key=lambda bin_: abs(np.log(bin_ * mpp / 10)))


def _why_empty(somewhere: bool, job: Job) -> str:
    if somewhere:
        return f"no patch holds {job.config.min_tissue:.0%} tissue"
    if job.drawn.roi is None:
        return "no tissue found"
    return (
        "the region of interest is empty" if job.config.roi_mode == "replace" else "no tissue in the region of interest"
    )


def _peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _patches_path(out: Path, slide_id: str) -> Path:
    return out / "patches" / f"{slide_id}.h5"


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
    if job is not None and made.source.get("given_mpp") != job.entry.mpp:
        changes.append(f"mpp in --list was {made.source.get('given_mpp')}, is {job.entry.mpp}")
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
        labels=None if made.label is None else _counts(made.label, made.label_names),
    )


def _remove_old(out: Path, slide_ids: Iterable[str]) -> None:
    """Remove the patches of slides about to be tiled again, which a failure would leave among the new ones."""
    for slide_id in slide_ids:
        path = _patches_path(out, slide_id)
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
        ("these bounds", f"from at most {_TRIED} patches of each slide"),
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
