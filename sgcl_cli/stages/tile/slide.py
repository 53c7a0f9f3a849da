"""What happens to one slide in a worker: laid out, read, encoded, written; or only surveyed, in a dry run.

A slide's pictures are written first, its file of patches last, so a slide whose file exists is complete.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, store
from sgcl_cli.artefacts.patches import SCHEMA, PatchWriter
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide import jpeg, overlay
from sgcl_cli.slide.annotations.outlines import Annotation, Labels, Region, label_patches, region_mask
from sgcl_cli.slide.lattice import Geometry, Lattice, cells, lay
from sgcl_cli.slide.lattice import shares as lattice_shares
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.files import identity
from sgcl_cli.slide.open.reader import Slide, Thumbnail
from sgcl_cli.slide.open.tiff import check_whole
from sgcl_cli.slide.read import bands, direct, lossless, oblong, overview
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.slide.tissue import focus, nuclei
from sgcl_cli.slide.tissue.tissue import Ink, Segmentation, segment
from sgcl_cli.stages.tile import coordinates
from sgcl_cli.stages.tile.annotations import Drawn, on_slide

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

    ``mpp`` is level 0's, across the slide, ``mpp_y`` down it: another one where pixels are oblong.
    ``unreadable`` patches could not be decoded and are left out, as are ``overhanging`` ones of a peer's
    coordinate file; ``path`` in the source of the patches file says how it was read.
    ``ink_mm2`` is the area of pen marks, which is no tissue; None where they are not looked for.
    ``tissue_preset`` is what tissue was told by, "" where a region of interest stands for it or nothing was looked for.
    ``bounds`` is the part that was scanned, as x y width height in level-0 pixels, where the slide records one.
    ``remarks`` is what the slide's file says of itself that does not count, or what makes it doubtful.
    ``labels`` counts the patches of each class that occurs. ``seconds`` and ``peak_mib`` (of the worker so far) belong to the
    run that made the file.
    """

    slide_id: str
    path: str
    patches: int
    unreadable: int
    overhanging: int
    reason: str
    width: int
    height: int
    mpp: float
    mpp_y: float
    mpp_source: str
    mpp_actual: float
    level: int
    tissue_mm2: float | None
    identity: str
    id: str = ""
    tissue_preset: str = ""
    ink_mm2: float | None = None
    bounds: str = ""
    remarks: str = ""
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
    with _open(job) as slide, Threads(progress.share) as threads:
        row, geometry, thumbnail, found, lattice, labels = _lay(slide, job, threads)
        progress.expect(0 if config.coords_only else len(lattice))
        with PatchWriter(patches_path(config, row.slide_id)) as writer:
            reading = _read(writer, slide, lattice, geometry, config, progress, threads)
            if reading.unreadable:
                lattice = lattice.where(reading.readable)
                labels = None if labels is None else labels.where(reading.readable)
            row = replace(
                _counted(row, job, found.tissue, lattice, labels),
                unreadable=len(reading.unreadable),
                mpp_actual=max(row.mpp_actual, reading.mpp),
            )
            label = None if labels is None else labels.label
            picture = _overlay(slide, thumbnail, found, lattice, geometry, label)
            outlines = overlay.outlines(
                found.tissue, thumbnail.scale, (0, 0) if slide.bounds is None else slide.bounds.corner
            )
            store.write_bytes(
                out / "thumbnails" / f"{row.slide_id}.jpg", jpeg.encode(thumbnail.pixels, _PICTURE_QUALITY)
            )
            store.write_bytes(out / "overlays" / f"{row.slide_id}.jpg", jpeg.encode(picture, _PICTURE_QUALITY))
            if job.drawn.coords is None and not _is_given(out / "contours", config):
                store.write_text(
                    out / "contours" / f"{row.slide_id}.geojson", json.dumps(outlines, separators=(",", ":"))
                )
            shares = _shares(found, slide.size, geometry, lattice, labels, reading)
            _finish(writer, slide, job, row, geometry, lattice, reading, label, shares)
    return replace(row, seconds=round(time.perf_counter() - started, 3), peak_mib=_peak_mib())


def _overlay(
    slide: Slide,
    thumbnail: Thumbnail,
    found: Segmentation,
    lattice: Lattice,
    geometry: Geometry,
    label: NDArray[np.int16] | None,
) -> NDArray[np.uint8]:
    base = overview.picture(slide, thumbnail)
    return overlay.draw(base, slide.size, found.tissue, lattice, geometry.sides, label, found.ink)


@dataclass(frozen=True)
class Survey(Row):
    """A row with bounds on what tiling the slide will take: bytes on disk, and seconds of one worker.

    ``untried`` is how many of the patches that were tried cannot be read.
    """

    least_bytes: int = 0
    most_bytes: int = 0
    least_seconds: float = 0.0
    most_seconds: float = 0.0
    untried: int = 0


def survey_slide(progress: Progress, job: Job) -> Survey:
    """Find the patches of one slide and try some; what ``tile`` does in each worker of a dry run.

    The bounds are those of the tried patches, read one by one, for all.

    :raises SlideError: the slide cannot be used.
    """
    started = time.perf_counter()
    cv2.setNumThreads(1)
    config = job.config
    with _open(job) as slide, Threads(progress.share) as threads:
        row, geometry, thumbnail, found, lattice, labels = _lay(slide, job, threads)
        label = None if labels is None else labels.label
        picture = _overlay(slide, thumbnail, found, lattice, geometry, label)
        pictures = sum(len(jpeg.encode(pixels, _PICTURE_QUALITY)) for pixels in (thumbnail.pixels, picture))
        before = time.perf_counter() - started
        sizes, seconds, untried = _try(slide, lattice, geometry, config)
    fixed = pictures + len(lattice) * _COLUMN_BYTES
    return Survey(
        **{spec.name: getattr(row, spec.name) for spec in fields(Row)},
        least_bytes=fixed + len(lattice) * min(sizes, default=0),
        most_bytes=fixed + len(lattice) * max(sizes, default=0),
        least_seconds=before + len(lattice) * min(seconds, default=0.0),
        most_seconds=before + len(lattice) * max(seconds, default=0.0),
        untried=untried,
    )


def _try(slide: Slide, lattice: Lattice, geometry: Geometry, config: TileConfig) -> tuple[list[int], list[float], int]:
    """Read and encode some patches: bytes and seconds of each, and how many cannot be read.

    :raises SlideError: none of them can, or native tiles are asked for and the patches are none.
    """
    if config.coords_only or not len(lattice):
        return [], [], 0
    if config.lossless:
        _check_lossless(slide, lattice, geometry, config)
    sizes, seconds, failures = [], [], []
    for number in np.unique(np.linspace(0, len(lattice) - 1, min(TRIED, len(lattice))).astype(int)).tolist():
        begun = time.perf_counter()
        try:
            patch = slide.region(lattice.coords[number].tolist(), geometry.sides, (config.patch_size,) * 2)
        except SlideError as error:
            failures.append(error)
            continue
        sizes.append(len(jpeg.encode(patch, config.jpeg_quality)))
        seconds.append(time.perf_counter() - begun)
    if not sizes:
        raise failures[0]
    return sizes, seconds, len(failures)


def _check_lossless(slide: Slide, lattice: Lattice, geometry: Geometry, config: TileConfig) -> None:
    _refuse_oblong_tiles(slide, geometry)
    patch = bands.Patch(geometry.patch_size_level0, config.patch_size)
    with direct.opened(slide, lattice.coords, patch) as (source, _):
        lossless.checked(source, lattice.coords, patch)


def _refuse_oblong_tiles(slide: Slide, geometry: Geometry) -> None:
    if not geometry.square:
        raise SlideError(
            f"{slide.path.name}: its pixels are oblong, so its tiles are no patches", "leave out --lossless"
        )


def _lay(
    slide: Slide, job: Job, threads: Threads
) -> tuple[Row, Geometry, Thumbnail, Segmentation, Lattice, Labels | None]:
    """Where the slide's patches lie and what they are called; all that is known before reading them."""
    foreign = _foreign(slide, job)
    geometry = Geometry(job.config.patch_size, job.config.overlap, job.config.mpp, *slide.mpps)
    if foreign is None:
        _check_room(slide, geometry)
    else:
        geometry = foreign.geometry
    row = _plan(slide, job, geometry)
    drawn = on_slide(job.drawn, job.config, slide)
    row = replace(row, remarks="; ".join(filter(None, [row.remarks, *drawn.remarks])))
    thumbnail = overview.thumbnail(slide, threads)
    found = _where(slide, thumbnail, job, drawn.roi)
    if _ink_of(job) == "auto":
        row = replace(row, ink_mm2=round(float(found.ink.sum()) * thumbnail.mpp**2 / 1e6, 4))
    if slide.mpp_source == "given" and (doubt := _doubt_of_mpp(slide, thumbnail, found.tissue)):
        row = replace(row, remarks="; ".join(filter(None, [row.remarks, doubt])))
    if foreign is None:
        lattice = lay(found.tissue | thumbnail.unreadable, slide.size, geometry, job.config.min_tissue)
        replaced = job.drawn.roi is not None and job.config.roi_mode == "replace"
        row = replace(
            row,
            tissue_mm2=round(float(found.tissue.sum()) * thumbnail.mpp**2 / 1e6, 4),
            tissue_preset="" if replaced else found.preset,
        )
    else:
        found, lattice = replace(found, tissue=np.zeros_like(found.tissue)), foreign.lattice
        row = replace(row, overhanging=foreign.overhanging)
    labels = _labels(drawn.annotation, slide, job, lattice, geometry)
    return _counted(row, job, found.tissue, lattice, labels), geometry, thumbnail, found, lattice, labels


def _counted(row: Row, job: Job, mask: NDArray[np.bool_], lattice: Lattice, labels: Labels | None) -> Row:
    """The row with the patches counted, or why there are none."""
    return replace(
        row,
        patches=len(lattice),
        reason=_why_empty(bool(mask.any()), job, row.overhanging) if not len(lattice) else "",
        labels=None if labels is None else class_counts(labels.label, job.drawn.names or ()),
    )


def _open(job: Job) -> Slide:
    check_whole(job.entry.path)
    return Slide(job.entry.path, given_mpp=job.entry.mpp, default_mpp=job.config.slide_mpp)


def _foreign(slide: Slide, job: Job) -> coordinates.Placed | None:
    """The patches that a peer has chosen, if this is so."""
    given = job.drawn.coords
    return None if given is None else coordinates.placed(given.path, given.sha256, slide, job.config)


def _check_room(slide: Slide, geometry: Geometry) -> None:
    if cells(slide.size, geometry) == 0:
        width, height = geometry.sides
        raise SlideError(
            f"{slide.path.name}: a patch covers {width:.0f} x {height:.0f} level-0 pixels, the slide has "
            f"{slide.size[0]} x {slide.size[1]}",
            "use a smaller --patch-size or --mpp",
        )


def _plan(slide: Slide, job: Job, geometry: Geometry) -> Row:
    """The slide's row as far as it is known before looking at pixels."""
    config, entry = job.config, job.entry
    if not config.allow_upsample:
        slide.check_resolves(config.mpp)
    level = slide.best_level(geometry.mpp)
    unique = identity(entry.path, entry.further)
    return Row(
        slide_id=entry.slide_id,
        path=entry.name,
        patches=0,
        unreadable=0,
        overhanging=0,
        reason="",
        width=slide.size[0],
        height=slide.size[1],
        mpp=slide.mpps[0],
        mpp_y=slide.mpps[1],
        mpp_source=slide.mpp_source,
        mpp_actual=max(geometry.mpp, slide.mpp * slide.downsamples[level]),
        level=level,
        bounds=spoken_bounds(slide.bounds),
        tissue_mm2=None,
        identity=unique,
        remarks="; ".join(slide.remarks),
        id=store.artefact_id(
            SCHEMA.format,
            config.affecting(),
            [entry.slide_id, unique, *_given(entry), *job.drawn.sources],
        ),
    )


def spoken_bounds(bounds: Sequence[int] | None) -> str:
    """The scanned part as slides.csv has it; "" where the slide records none."""
    return "" if bounds is None else " ".join(map(str, bounds))


def _given(entry: Entry) -> list[str]:
    """What the table says of a slide, as its patches' id depends on it."""
    return [f"{name} {value}" for name, value in entry.given.items() if value is not None]


def _ink_of(job: Job) -> Ink:
    return job.config.ink if job.entry.ink is None else job.entry.ink


def _where(slide: Slide, thumbnail: Thumbnail, job: Job, regions: tuple[Region, ...] | None) -> Segmentation:
    """Where patches may lie: tissue, or the region of interest, or tissue within it."""
    given, config = job.entry, job.config
    found = segment(
        thumbnail.pixels,
        thumbnail.mpp,
        preset=config.tissue if given.tissue is None else given.tissue,
        min_area=config.min_area if given.min_area is None else given.min_area,
        max_hole=config.max_hole if given.max_hole is None else given.max_hole,
        ink=_ink_of(job),
        finer=overview.finer(slide, thumbnail),
    )
    if regions is None:
        return found
    height, width = thumbnail.pixels.shape[:2]
    inside = region_mask(regions, (height, width), thumbnail.scale)
    return replace(found, tissue=inside if config.roi_mode == "replace" else inside & found.tissue)


def _labels(
    annotation: Annotation | None, slide: Slide, job: Job, lattice: Lattice, geometry: Geometry
) -> Labels | None:
    """The patches' classes; None where the cohort has no annotations."""
    if job.drawn.names is None:
        return None
    return label_patches(annotation, job.drawn.names, job.config.label_rule, lattice, geometry, slide.size)


def _doubt_of_mpp(slide: Slide, thumbnail: Thumbnail, tissue: NDArray[np.bool_]) -> str:
    """What speaks against a resolution that was given by hand: the size of nuclei; "" where nothing does."""
    rows, columns = np.nonzero(tissue)
    side = [min(nuclei.SIDE, limit) for limit in slide.size]

    def places() -> Iterator[NDArray[np.uint8]]:
        for number in np.random.default_rng(0).permutation(len(rows))[: nuclei.PLACES]:
            middle = columns[number] * thumbnail.scale[0], rows[number] * thumbnail.scale[1]
            x, y = (
                round(min(max(0.0, centre - own / 2), limit - own))
                for centre, own, limit in zip(middle, side, slide.size, strict=True)
            )
            with suppress(SlideError):
                yield slide.pixels(0, (x, y), (side[0], side[1]))

    size = nuclei.diameter(places())
    if size is None or not nuclei.implausible(size, slide.mpp):
        return ""
    return (
        f"at the {slide.mpp:.4g} um/px that were given its dark blobs, nuclei as a rule, are {size * slide.mpp:.1f} um wide, "
        f"usual are about {nuclei.USUAL:g}; check --slide-mpp or column mpp of --list"
    )


def _is_given(contours: Path, config: TileConfig) -> bool:
    """Whether the folder of contours is the one of regions of interest: what is in it is the user's then."""
    return config.roi is not None and contours.exists() and contours.samefile(config.roi)


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

    :ivar path: "direct", "openslide", "plain", or "none".
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
    writer: PatchWriter,
    slide: Slide,
    lattice: Lattice,
    geometry: Geometry,
    config: TileConfig,
    progress: Progress,
    threads: Threads,
) -> _Reading:
    """Read, encode and write the patches, band by band, in the lattice's order.

    :raises SlideError: none of them can be read.
    """
    if config.coords_only or not len(lattice):
        every = np.ones(len(lattice), np.bool_)
        return _Reading("none", "coordinates alone" if config.coords_only else "no patches", 0.0, every, [])
    if not geometry.square:
        return _read_oblong(writer, slide, lattice, geometry, config, progress)
    corners, patch = lattice.coords, bands.Patch(geometry.patch_size_level0, config.patch_size)
    with direct.opened(slide, corners, patch) as (source, plan):
        if config.lossless:
            files = lossless.files(source, corners, patch, config.jpeg_quality)
        else:
            files = _encoded(slide, source, plan, corners, patch, config.jpeg_quality, threads)
        readable, blur = _write(writer, files, len(lattice), progress)
        lost = corners[~readable].tolist()
        return _Reading(source.path, source.why, slide.mpp * source.pitch, readable, lost, blur * config.mpp)


def _read_oblong(
    writer: PatchWriter, slide: Slide, lattice: Lattice, geometry: Geometry, config: TileConfig, progress: Progress
) -> _Reading:
    """The same for a slide with oblong pixels.

    :raises SlideError: none can be read, or native tiles are asked for.
    """
    if config.lossless:
        _refuse_oblong_tiles(slide, geometry)
    files = oblong.files(slide, lattice.coords, geometry.sides, config.patch_size, config.jpeg_quality)
    readable, blur = _write(writer, files, len(lattice), progress)
    coarsest = slide.mpp * slide.downsamples[slide.best_level(config.mpp)]
    lost = lattice.coords[~readable].tolist()
    return _Reading(slide.library, oblong.WHY, coarsest, readable, lost, blur * config.mpp)


def _write(
    writer: PatchWriter, files: Iterable[tuple[int, focus.Encoded | SlideError]], count: int, progress: Progress
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Write the files of ``count`` patches; which of them could be read, bool (count,), and the blur of those, in pixels.

    :raises SlideError: none.
    """
    readable, meter = np.ones(count, np.bool_), focus.Meter()
    first: SlideError | None = None
    for position, file in files:
        progress.advance()
        if isinstance(file, SlideError):
            readable[position] = False
            first = first or file
        else:
            writer.append(file.jpeg)
            meter.add(file)
    if first is not None and not readable.any():
        raise SlideError(f"none of {count} patches can be read; first: {first.message}", first.hint)
    return readable, meter.blur()


def _encoded(
    slide: Slide,
    source: bands.Source,
    plan: list[bands.Band],
    corners: NDArray[np.int64],
    patch: bands.Patch,
    quality: int,
    threads: Threads,
) -> Iterator[tuple[int, focus.Encoded | SlideError]]:
    """The JPEG files of all patches in their order; those of a band wait for each other."""

    def encode(pixels: NDArray[np.uint8]) -> focus.Encoded:
        return focus.encode(pixels, quality)

    for band in plan:
        yield from sorted(bands.read(slide, source, band, corners, patch, encode, threads), key=lambda item: item[0])


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
                "ink_mm2": row.ink_mm2,
                "remarks": row.remarks,
                "bounds": None if slide.bounds is None else list(slide.bounds),
                **job.drawn.as_source(),
                "path": reading.path,
                "path_why": reading.why,
                "unreadable": reading.unreadable,
                "overhanging": row.overhanging,
            },
            "reason": row.reason,
            **({} if label is None else {"label_names": job.drawn.names}),
        },
        coords_attributes=_coords_attributes(slide, job, row, geometry),
        pixels=not job.config.coords_only,
    )


def _coords_attributes(slide: Slide, job: Job, row: Row, geometry: Geometry) -> dict[str, Any]:
    """What readers of TRIDENT and CLAM look for, right or left out, and the exact resolution.

    CLAM counts ``patch_size`` in pixels of ``patch_level``, TRIDENT in pixels at the target; only where a level has the
    target's resolution to within half a level-0 pixel over a patch are both true. TRIDENT knows level 0 by a nominal
    magnification and takes the field of view from its ratio to the target's, so the target's is written such that the ratio
    is exact. Both take level-0 pixels for square: where they are oblong, what says otherwise is left out.
    """
    config = job.config
    attributes: dict[str, Any] = {
        "patch_size": config.patch_size,
        "name": row.slide_id,
        "savetodir": "patches",
        "save_path": "patches",
        "level0_width": row.width,
        "level0_height": row.height,
        "mpp_target": config.mpp,
        "mpp_actual": row.mpp_actual,
    }
    if job.drawn.coords is None:
        attributes |= {"overlap": config.overlap, "stride": config.patch_size - config.overlap}
    if not geometry.square:
        return attributes | {
            "patch_size_level0_xy": np.array(geometry.sides),
            **({"stride0_xy": np.array(geometry.strides)} if job.drawn.coords is None else {}),
            "mpp_level0_xy": np.array(slide.mpps),
        }
    side, nominal = geometry.patch_size_level0, layout.magnification(slide.mpp)
    attributes |= {
        "patch_size_level0": side,
        "level0_magnification": nominal,
        "target_magnification": nominal * config.patch_size / side,
        "mpp_level0": slide.mpp,
        **({"stride0": geometry.stride_level0} if job.drawn.coords is None else {}),
    }
    downsample = slide.downsamples[row.level]
    if abs(config.patch_size * downsample - side) <= 0.5:
        attributes |= {
            "patch_level": row.level,
            "downsample": np.array([downsample, downsample]),
            "level_dim": np.array(slide.level_sizes[row.level]),
            "downsampled_level_dim": np.array(slide.level_sizes[row.level]),
        }
    return attributes


def _why_empty(somewhere: bool, job: Job, overhanging: int) -> str:
    if job.drawn.coords is not None:
        return (
            "all patches of its coordinate file hang over its edge"
            if overhanging
            else "its coordinate file has no patches"
        )
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


def patches_path(config: TileConfig, slide_id: str) -> Path:
    """Where a slide's patches lie in the output."""
    folder = layout.patches_folder(
        Path(config.out),
        config.layout,
        mpp=config.mpp,
        patch_size=config.patch_size,
        overlap=config.overlap,
    )
    return layout.patches_file(folder, config.layout, slide_id)
