"""Reading, encoding and writing of a slide's patches, band by band."""

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
    """The result of reading a slide's patches.

    :ivar path: name of the source: "direct", a library of ``Backend``, or "none".
    :ivar why: reason for the choice of the source.
    :ivar mpp: resolution of the decoded pixels, µm per pixel; 0 if none were decoded.
    :ivar readable: bool (N,), True for patches that could be read.
    :ivar unreadable: x, y of the corners of the others, level-0 pixels.
    :ivar blur: float32, of each readable patch, µm; None if no pixels were read.
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
    """Read, encode and write the patches, band by band, in the order of the lattice.

    :raises SlideError: no patch can be read.
    """
    lattice, geometry = plan.lattice, plan.geometry
    if config.coords_only or not len(lattice):
        every = np.ones(len(lattice), np.bool_)
        return ReadingResult("none", "coordinates only" if config.coords_only else "no patches", 0.0, every, [])
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
    """``read_patches`` for a slide with oblong pixels.

    :raises SlideError: no patch can be read, or ``--lossless`` is set.
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
    """Write the JPEG files of patches; returns which of them could be read, bool (count,), and the blur of these, pixels.

    :param count: number of patches.
    :raises SlideError: no patch can be read.
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
        raise SlideError(f"none of {count} patches can be read; the first error: {first.message}", first.hint)
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
    """The JPEG files of all patches in their order; those of a band are held in memory until it is complete."""

    def encode(pixels: NDArray[np.uint8]) -> focus.Encoded:
        return focus.encode(pixels, quality)

    for band in planned:
        files = bands.read(slide, source, band, corners, patch, finish=encode, threads=threads)
        yield from sorted(files, key=lambda item: item[0])
