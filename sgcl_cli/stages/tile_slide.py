"""What happens to one slide in a worker: laid out, read, encoded, written; or only surveyed, in a dry run.

A slide's pictures are written first, its file of patches last, so a slide whose file exists is complete.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import SCHEMA, PatchWriter
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide import bands, direct, focus, jpeg, lossless, overlay
from sgcl_cli.slide.annotations import Labels, label_patches, region_mask
from sgcl_cli.slide.discover import Entry
from sgcl_cli.slide.lattice import Geometry, Lattice, cells, lay
from sgcl_cli.slide.lattice import shares as lattice_shares
from sgcl_cli.slide.reader import Slide, Thumbnail, identity
from sgcl_cli.slide.tiff import check_whole
from sgcl_cli.slide.tissue import Segmentation, segment
from sgcl_cli.stages.drawings import Drawn, annotation_of, roi_of

_MAGNIFICATIONS = (5, 10, 20, 40, 60, 80)  # the bins of TRIDENT
_PICTURE_QUALITY = 85
TRIED = 5  # patches of each slide in a dry run
_COLUMN_BYTES = 48  # of a patch, besides its pixels


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
    ``tissue_preset`` is what tissue was told by, "" where a region of interest stands for it. ``labels`` counts the patches of
    each class that occurs. ``seconds`` and ``peak_mib`` (of the worker so far) belong to the run that made the file.
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
    tissue_preset: str = ""
    labels: dict[str, int] | None = None
    seconds: float | None = None
    peak_mib: float | None = None


def tile_slide(progress: Progress, job: Job) -> Row:
    """Tile one slide; what ``tile`` does in each worker.

    :raises SlideError: the slide cannot be used.
    :raises ArtefactError: its files cannot be written.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config, out = job.config, Path(job.config.out)
    with _open(job) as slide:
        row, geometry, thumbnail, found, lattice, labels = _lay(slide, job)
        progress.expect(len(lattice))
        with PatchWriter(patches_path(out, row.slide_id)) as writer:
            reading = _read(writer, slide, lattice, geometry, config, progress)
            if reading.unreadable:
                lattice = lattice.where(reading.readable)
                labels = _labels(slide, job, lattice, geometry)
            row = replace(
                _counted(row, job, found.tissue, lattice, labels),
                unreadable=len(reading.unreadable),
                mpp_actual=max(row.mpp_actual, reading.mpp),
            )
            label = None if labels is None else labels.label
            picture = overlay.draw(
                thumbnail.pixels, found.tissue, lattice, geometry.patch_size_level0, thumbnail.scale, label
            )
            contours = json.dumps(overlay.outlines(found.tissue, thumbnail.scale), separators=(",", ":"))
            store.write_bytes(
                out / "thumbnails" / f"{row.slide_id}.jpg", jpeg.encode(thumbnail.pixels, _PICTURE_QUALITY)
            )
            store.write_bytes(out / "overlays" / f"{row.slide_id}.jpg", jpeg.encode(picture, _PICTURE_QUALITY))
            if not job.drawn.roi_is(out / "contours" / f"{row.slide_id}.geojson"):
                store.write_text(out / "contours" / f"{row.slide_id}.geojson", contours)
            shares = _shares(found, slide.size, geometry, lattice, labels, reading)
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
        row, geometry, thumbnail, found, lattice, labels = _lay(slide, job)
        label = None if labels is None else labels.label
        picture = overlay.draw(
            thumbnail.pixels, found.tissue, lattice, geometry.patch_size_level0, thumbnail.scale, label
        )
        pictures = sum(len(jpeg.encode(pixels, _PICTURE_QUALITY)) for pixels in (thumbnail.pixels, picture))
        before = time.perf_counter() - started
        tried = np.unique(np.linspace(0, len(lattice) - 1, min(TRIED, len(lattice))).astype(int)).tolist()
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


def _lay(slide: Slide, job: Job) -> tuple[Row, Geometry, Thumbnail, Segmentation, Lattice, Labels | None]:
    """Where the slide's patches lie and what they are called; all that is known before reading them."""
    row, geometry = _plan(slide, job)
    thumbnail = slide.thumbnail()
    found = _where(thumbnail, job)
    lattice = lay(found.tissue | thumbnail.unreadable, slide.size, geometry, job.config.min_tissue)
    labels = _labels(slide, job, lattice, geometry)
    replaced = job.drawn.roi is not None and job.config.roi_mode == "replace"
    row = replace(
        row,
        tissue_mm2=round(float(found.tissue.sum()) * thumbnail.mpp**2 / 1e6, 4),
        tissue_preset="" if replaced else found.preset,
    )
    return _counted(row, job, found.tissue, lattice, labels), geometry, thumbnail, found, lattice, labels


def _counted(row: Row, job: Job, mask: NDArray[np.bool_], lattice: Lattice, labels: Labels | None) -> Row:
    """The row with the patches counted, or why there are none."""
    return replace(
        row,
        patches=len(lattice),
        reason=_why_empty(bool(mask.any()), job) if not len(lattice) else "",
        labels=None if labels is None else class_counts(labels.label, job.drawn.names or ()),
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
            [entry.slide_id, unique, *_given(entry), *job.drawn.sources],
        ),
    )
    return row, geometry


def _given(entry: Entry) -> list[str]:
    """What the table says of a slide, as its patches' id depends on it."""
    return [f"{name} {value}" for name, value in entry.given.items() if value is not None]


def _where(thumbnail: Thumbnail, job: Job) -> Segmentation:
    """Where patches may lie: tissue, or the region of interest, or tissue within it."""
    given, config = job.entry, job.config
    found = segment(
        thumbnail.pixels,
        thumbnail.mpp,
        preset=config.tissue if given.tissue is None else given.tissue,
        min_area=config.min_area if given.min_area is None else given.min_area,
        max_hole=config.max_hole if given.max_hole is None else given.max_hole,
    )
    regions = roi_of(job.drawn)
    if regions is None:
        return found
    height, width = thumbnail.pixels.shape[:2]
    inside = region_mask(regions, (height, width), thumbnail.scale)
    return replace(found, tissue=inside if config.roi_mode == "replace" else inside & found.tissue)


def _labels(slide: Slide, job: Job, lattice: Lattice, geometry: Geometry) -> Labels | None:
    """The patches' classes; None where the cohort has no annotations."""
    if job.drawn.names is None:
        return None
    annotation = annotation_of(job.drawn, job.config, slide.size, slide.mpp)
    return label_patches(annotation, job.drawn.names, job.config.label_rule, lattice, geometry, slide.size)


def _shares(
    found: Segmentation,
    size: tuple[int, int],
    geometry: Geometry,
    lattice: Lattice,
    labels: Labels | None,
    reading: _Reading,
) -> dict[str, NDArray[np.float32]]:
    """The optional numbers of each patch: under pen as the thumbnail shows it, and what was measured on its pixels."""
    shares = {"pen": lattice_shares(found.pen, size, geometry, lattice)}
    if reading.blur is not None:
        shares["blur"] = reading.blur
    return shares if labels is None else shares | {"label_share": labels.share}


def class_counts(label: NDArray[np.int16], names: Sequence[str]) -> dict[str, int]:
    """How many patches each class has, of those that occur; label -1 counts nowhere."""
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
    :ivar blur: float32, of each patch that could be read, um; None where no pixels were.
    """

    path: str
    why: str
    mpp: float
    readable: NDArray[np.bool_]
    unreadable: list[list[int]]
    blur: NDArray[np.float32] | None = None


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
    meter = focus.Meter()
    first: SlideError | None = None
    with direct.opened(slide, corners, patch) as (source, plan):
        if config.lossless:
            files = lossless.files(source, corners, patch, config.jpeg_quality)
        else:
            files = _encoded(slide, source, plan, corners, patch, config.jpeg_quality)
        for position, file in files:
            progress.advance()
            if isinstance(file, SlideError):
                readable[position] = False
                first = first or file
            else:
                writer.append(file.jpeg)
                meter.add(file)
        if first is not None and not readable.any():
            raise SlideError(f"none of {len(lattice)} patches can be read; first: {first.message}", first.hint)
        lost = corners[~readable].tolist()
        blur = meter.blur() * np.float32(config.mpp)
        return _Reading(source.path, source.why, slide.mpp * source.pitch, readable, lost, blur)


def _encoded(
    slide: Slide,
    source: bands.Source,
    plan: list[bands.Band],
    corners: NDArray[np.int64],
    patch: bands.Patch,
    quality: int,
) -> Iterator[tuple[int, focus.Encoded | SlideError]]:
    """The JPEG files of all patches in their order; those of a band wait for each other."""
    for band in plan:
        read: dict[int, focus.Encoded | SlideError] = {}
        for position, pixels in bands.read(slide, source, band, corners, patch):
            read[position] = pixels if isinstance(pixels, SlideError) else focus.encode(pixels, quality)
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
                **{f"given_{name}": value for name, value in job.entry.given.items()},
                "tissue_preset": row.tissue_preset,
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


def patches_path(out: Path, slide_id: str) -> Path:
    """Where a slide's patches lie in the output."""
    return out / "patches" / f"{slide_id}.h5"
