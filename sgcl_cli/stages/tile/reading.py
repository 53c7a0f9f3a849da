"""The patches of a slide read, encoded and written, band by band."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import bands, direct, lossless, oblong
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.slide.tissue import focus
from sgcl_cli.stages.tile.plan import PatchPlan, refuse_oblong_tiles


@dataclass(frozen=True)
class ReadingResult:
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


def read_patches(
    writer: PatchWriter, slide: Slide, plan: PatchPlan, *, config: TileConfig, progress: Progress, threads: Threads
) -> ReadingResult:
    """Read, encode and write the patches, band by band, in the lattice's order.

    :raises SlideError: none of them can be read.
    """
    lattice, geometry = plan.lattice, plan.geometry
    if config.coords_only or not len(lattice):
        every = np.ones(len(lattice), np.bool_)
        return ReadingResult("none", "coordinates alone" if config.coords_only else "no patches", 0.0, every, [])
    if not geometry.square:
        return _read_oblong(writer, slide, plan, config, progress)
    corners, patch = lattice.coords, bands.Patch(geometry.patch_size_level0, config.patch_size)
    with direct.opened(slide, corners, patch) as (source, planned):
        if config.lossless:
            files = lossless.files(source, corners, patch, config.jpeg_quality)
        else:
            quality = config.jpeg_quality
            files = _encoded(slide, source, planned, corners, patch, quality=quality, threads=threads)
        readable, blur = _write(writer, files, len(lattice), progress)
        lost = corners[~readable].tolist()
        return ReadingResult(source.path, source.why, slide.mpp * source.pitch, readable, lost, blur * geometry.mpp)


def _read_oblong(
    writer: PatchWriter, slide: Slide, plan: PatchPlan, config: TileConfig, progress: Progress
) -> ReadingResult:
    """The same for a slide with oblong pixels.

    :raises SlideError: none can be read, or native tiles are asked for.
    """
    lattice, geometry = plan.lattice, plan.geometry
    if config.lossless:
        refuse_oblong_tiles(slide, geometry)
    files = oblong.files(slide, lattice.coords, geometry.sides, config.patch_size, config.jpeg_quality)
    readable, blur = _write(writer, files, len(lattice), progress)
    coarsest = slide.mpp * slide.downsamples[slide.best_level(config.mpp)]
    lost = lattice.coords[~readable].tolist()
    return ReadingResult(slide.library, oblong.WHY, coarsest, readable, lost, blur * geometry.mpp)


def _write(
    writer: PatchWriter, files: Iterable[tuple[int, focus.Encoded | SlideError]], count: int, progress: Progress
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Write the files of ``count`` patches; which of them could be read, bool (count,), and the blur of those, in pixels.

    :raises SlideError: none.
    """
    readable, meter = np.ones(count, np.bool_), focus.BlurMeter()
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
    source: bands.WindowSource,
    planned: list[bands.Band],
    corners: NDArray[np.int64],
    patch: bands.Patch,
    *,
    quality: int,
    threads: Threads,
) -> Iterator[tuple[int, focus.Encoded | SlideError]]:
    """The JPEG files of all patches in their order; those of a band wait for each other."""

    def encode(pixels: NDArray[np.uint8]) -> focus.Encoded:
        return focus.encode(pixels, quality)

    for band in planned:
        files = bands.read(slide, source, band, corners, patch, finish=encode, threads=threads)
        yield from sorted(files, key=lambda item: item[0])
