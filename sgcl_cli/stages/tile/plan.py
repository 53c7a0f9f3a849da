"""Positions and labels of a slide's patches, determined before any of them is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import SCHEMA
from sgcl_cli.errors import SlideError
from sgcl_cli.slide import overlay
from sgcl_cli.slide.annotations.outlines import Annotation, PatchLabels, Region, label_patches, region_mask
from sgcl_cli.slide.lattice import Geometry, Lattice, cells, lay
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.files import identity
from sgcl_cli.slide.open.reader import Slide, Thumbnail
from sgcl_cli.slide.open.tiff import check_whole
from sgcl_cli.slide.read import overview
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.slide.tissue import nuclei
from sgcl_cli.slide.tissue.tissue import Ink, Segmentation, segment
from sgcl_cli.stages.tile import coordinates
from sgcl_cli.stages.tile.annotations import on_slide
from sgcl_cli.stages.tile.job import Job, Row, bounds_text, class_counts


def open_slide(job: Job) -> Slide:
    """Open the slide of a job.

    :raises SlideError: the file is cut short or cannot be opened.
    """
    check_whole(job.entry.path)
    return Slide(job.entry.path, given_mpp=job.entry.mpp, default_mpp=job.config.slide_mpp)


@dataclass(frozen=True)
class PatchPlan:
    """Positions and labels of a slide's patches.

    :ivar row: the slide's row, as far as it is known before patches are read.
    :ivar geometry: size and spacing of patches.
    :ivar thumbnail: of the slide.
    :ivar found: tissue and marks on the thumbnail.
    :ivar lattice: the patches.
    :ivar labels: of the patches; None if the cohort has no annotations.
    """

    row: Row
    geometry: Geometry
    thumbnail: Thumbnail
    found: Segmentation
    lattice: Lattice
    labels: PatchLabels | None

    @property
    def label(self) -> NDArray[np.int16] | None:
        """Index of each patch's class, int16 (N,); None if the cohort has no annotations."""
        return None if self.labels is None else self.labels.label

    def overlay(self, slide: Slide) -> NDArray[np.uint8]:
        """The slide with tissue outlined, patches marked and ink hatched, uint8 (H, W, 3)."""
        base = overview.picture(slide, self.thumbnail)
        tissue, ink = self.found.tissue, self.found.ink
        return overlay.draw(base, slide.size, tissue, self.lattice, self.geometry.sides, label=self.label, ink=ink)


def lay_out(slide: Slide, job: Job, threads: Threads) -> PatchPlan:
    """Determine the patches of a slide, without reading them.

    :raises SlideError: the slide cannot be used.
    """
    foreign = _foreign(slide, job)
    geometry = Geometry(job.config.patch_size, job.config.overlap, job.config.mpp, *slide.mpps)
    if foreign is None:
        _check_room(slide, geometry)
    else:
        geometry = foreign.geometry
    row = _first_row(slide, job, geometry)
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
    return _counted(PatchPlan(row, geometry, thumbnail, found, lattice, labels), job)


def only(plan: PatchPlan, kept: NDArray[np.bool_], job: Job) -> PatchPlan:
    """The plan with only the patches for which ``kept``, bool (N,), is True."""
    labels = None if plan.labels is None else plan.labels.where(kept)
    return _counted(replace(plan, lattice=plan.lattice.where(kept), labels=labels), job)


def _counted(plan: PatchPlan, job: Job) -> PatchPlan:
    """The plan with the number of patches in its row, or the reason why there are none."""
    somewhere = bool(plan.found.tissue.any())
    row = replace(
        plan.row,
        patches=len(plan.lattice),
        reason=_why_empty(somewhere, job, plan.row.overhanging) if not len(plan.lattice) else "",
        labels=None if plan.label is None else class_counts(plan.label, job.drawn.names or ()),
    )
    return replace(plan, row=row)


def _foreign(slide: Slide, job: Job) -> coordinates.Placed | None:
    """The patches of the slide's coordinate file; None if there is none."""
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


def _first_row(slide: Slide, job: Job, geometry: Geometry) -> Row:
    """The slide's row as far as it is known before pixels are read."""
    config, entry = job.config, job.entry
    if not config.allow_upsample:
        slide.check_resolves(geometry.mpp)
    if config.layout == "clam" and not geometry.square:
        raise SlideError(
            f"{slide.path.name}: its pixels are oblong, but CLAM reads patches with equal sides in pixels",
            "leave out --layout clam",
        )
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
        bounds=bounds_text(slide.bounds),
        tissue_mm2=None,
        identity=unique,
        remarks="; ".join(slide.remarks),
        id=store.artefact_id(
            SCHEMA.format,
            config.affecting(),
            [entry.slide_id, unique, *_given(entry), *job.drawn.sources],
        ),
    )


def _given(entry: Entry) -> list[str]:
    """Settings from the table, as part of the patches' id."""
    return [f"{name} {value}" for name, value in entry.given.items() if value is not None]


def _ink_of(job: Job) -> Ink:
    return job.config.ink if job.entry.ink is None else job.entry.ink


def _where(slide: Slide, thumbnail: Thumbnail, job: Job, regions: tuple[Region, ...] | None) -> Segmentation:
    """The area in which patches are placed: tissue, the region of interest, or tissue within it."""
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
) -> PatchLabels | None:
    """The labels of the patches; None if the cohort has no annotations."""
    if job.drawn.names is None:
        return None
    return label_patches(annotation, job.drawn.names, job.config.label_rule, lattice, geometry, size=slide.size)


def _doubt_of_mpp(slide: Slide, thumbnail: Thumbnail, tissue: NDArray[np.bool_]) -> str:
    """A warning if nuclei would have an implausible size at the resolution that the user gave, else ""."""
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
        f"at the given {slide.mpp:.4g} µm/px its dark blobs, nuclei as a rule, are {size * slide.mpp:.1f} µm wide, but usually "
        f"about {nuclei.USUAL:g} µm; check --slide-mpp or column mpp of --list"
    )


def _why_empty(somewhere: bool, job: Job, overhanging: int) -> str:
    if job.drawn.coords is not None:
        return (
            "all patches of its coordinate file extend beyond its edge"
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


def refuse_oblong_tiles(slide: Slide, geometry: Geometry) -> None:
    """Check that pixels are square, as native tiles cannot be patches otherwise.

    :raises SlideError: they are oblong.
    """
    if not geometry.square:
        raise SlideError(
            f"{slide.path.name}: its pixels are oblong, so its tiles cannot be patches", "leave out --lossless"
        )
