"""Patches read from slides at given coordinates, for ``sgcl embed --slides``, the only command that loads this module.

Pixels are read as ``sgcl tile`` reads them, and in the same bands and batches where a run is continued in the middle of a slide.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import coordinates, peers, store
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.loader import Batch, Failed, Missing
from sgcl_cli.engine.pool import Lost, Progress, run_tasks
from sgcl_cli.engine.processes import cores
from sgcl_cli.engine.readers import Readers, Reading
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError, SlideError
from sgcl_cli.slide.open.backends.openslide import dicom_series
from sgcl_cli.slide.open.discover import Entry, discover
from sgcl_cli.slide.open.files import identity
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.open.tiff import check_whole
from sgcl_cli.slide.read import bands, direct, overview
from sgcl_cli.slide.read.threads import Threads
from sgcl_cli.stages.embed.bags import Bag, Kind, Todo, bag_of, failed, kind_of, stored_picture
from sgcl_cli.stages.tile.coordinates import locate

_MIXED = 0.05  # share by which resolutions of one run may differ
_CACHE = 128 * 2**20  # bytes
_TIMEOUT = 120.0  # seconds, to open a DICOM file
_PEERS = "sgcl.coordinates/1"


@dataclass(frozen=True)
class SlideJob:
    """The task of a worker that reads a slide.

    :ivar corners: int64 (N, 2), level-0 pixels.
    :ivar sides: (width, height) of a patch, level-0 pixels.
    :ivar size: side of a patch in pixels.
    :ivar identity: identity of the slide that the coordinates belong to; None where it is not recorded.
    :ivar done: number of rows that are finished.
    :ivar batch: patches that are encoded together.
    """

    entry: Entry
    corners: NDArray[np.int64]
    sides: tuple[float, float]
    size: int
    given_mpp: float | None
    default_mpp: float | None
    identity: str | None
    done: int = 0
    batch: int = 1


@dataclass
class SlidePatches:
    """Patches whose pixels are read from the slides; a ``PatchSource``."""

    id: str
    kind: Kind
    bags: list[Bag]
    jobs: dict[str, SlideJob]
    failures: list[Failure]
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=lambda: {"pixels": "slides"})

    def arrivals(
        self, todo: Sequence[Todo], config: EmbedConfig, runtime: Runtime, sharers: int
    ) -> Generator[Batch | Missing | Failed]:
        """Batches of all slides, read by one set of processes."""
        readings = [
            Reading(
                replace(self.jobs[each.bag.slide_id], done=each.done, batch=config.batch),
                each.bag.start,
                each.bag.count,
            )
            for each in todo
            if each.bag.count > each.done
        ]
        assert self.kind.patch_size is not None
        workers = _workers(config, runtime, sharers)
        with Readers(
            read_patches, self.kind.patch_size, config.batch, workers, runtime.on_cuda, config.slide_timeout
        ) as readers:
            yield from readers.batches(readings)

    def show(self, slide_id: str, corner: tuple[int, int]) -> NDArray[np.uint8]:
        """One patch, read in this process."""
        job = replace(self.jobs[slide_id], corners=np.array([corner], np.int64), done=0)
        (_, made), *_ = read_patches(job, lambda: 1)
        if isinstance(made, SgclError):
            raise made
        return made

    def picture(self, slide_id: str) -> NDArray[np.uint8] | None:
        """The thumbnail that ``sgcl tile`` wrote, else one that is read here; None where the slide cannot be read."""
        stored = stored_picture(next(bag for bag in self.bags if bag.slide_id == slide_id).path)
        if stored is not None or slide_id not in self.jobs:
            return stored
        job = self.jobs[slide_id]
        mpp = job.given_mpp if job.given_mpp is not None else job.entry.mpp
        with (
            contextlib.suppress(SlideError),
            Slide(job.entry.path, given_mpp=mpp, default_mpp=job.default_mpp) as slide,
        ):
            return overview.thumbnail(slide).pixels
        return None


def _workers(config: EmbedConfig, runtime: Runtime, sharers: int) -> int:
    """Processes that read: ``--workers``, else as for decoding on a GPU, and a quarter of the cores on a CPU; one at least."""
    given = engine.loading_workers(config.workers, runtime, sharers)
    return max(1, given if config.workers is not None or runtime.on_cuda else cores() // sharers // 4)


def of_ours(config: EmbedConfig) -> SlidePatches:
    """Patches of ``sgcl tile``, with or without stored pixels; slides are found by their recorded names, else by their ids.

    :raises ConfigError: there is no such folder of slides.
    :raises ArtefactError: there are no patches, or their settings differ.
    """
    folder, damaged = Path(config.patches), dict[Path, ArtefactError]()
    index = PatchIndex.open(folder, damaged=damaged)
    failures = failed(damaged, folder)
    entries = _entries(config, index.files)
    bags, jobs = [], {}
    for number, file in enumerate(index.files):
        entry = entries.get(file.slide_id)
        if entry is None and len(file):
            failures.append(_without_slide(file.slide_id, file.path, config))
            continue
        bags.append(bag_of(file, int(index.starts[number]), tolerant=True))
        if entry is not None and len(file):
            width, height = file.sides.tolist()
            jobs[file.slide_id] = SlideJob(
                entry,
                file.coords,
                (width, height),
                index.patch_size,
                file.source.get("given_mpp"),
                file.config.get("slide_mpp"),
                file.source.get("identity"),
            )
    return SlidePatches(index.id, kind_of(index), bags, jobs, failures)


def _entries(config: EmbedConfig, files: Sequence[PatchFile]) -> dict[str, Entry]:
    root = Path(config.slides or "")
    if not root.is_dir():
        raise ConfigError(f"no such folder: {root}", "give --slides the folder that holds the slides")
    found: dict[str, Entry] = {}
    for file in files:
        name = str(file.source.get("name", ""))
        if name and (root / name).is_file() and Path(name).suffix.lower() != ".dcm":
            found[file.slide_id] = Entry(file.slide_id, root / name, name)
    if any(len(file) and file.slide_id not in found for file in files):
        discovered = _discovered(root)
        by_name = {entry.name: entry for entry in discovered}
        named = {
            file.slide_id: by_name[str(file.source.get("name"))] for file in files if file.source.get("name") in by_name
        }
        found = {entry.slide_id: entry for entry in discovered} | named | found
    return found


def _discovered(root: Path) -> tuple[Entry, ...]:
    return discover([root], None, "stem", _series).entries


def _series(paths: list[Path]) -> list[str | None]:
    """The series of DICOM files, read in worker processes, since some files crash OpenSlide."""
    tasks = {str(path): (path,) for path in paths}
    series = {result.key: result.value for result in run_tasks(_series_of, tasks, workers=1, timeout=_TIMEOUT)}
    return [series[str(path)] for path in paths]


def _series_of(progress: Progress, path: Path) -> str | None:
    return dicom_series(path)


def _without_slide(slide_id: str, path: Path, config: EmbedConfig) -> Failure:
    return Failure(
        slide_id, path.name, f"{Path(config.slides or '').name} holds no slide of this name", "add the slide"
    )


@dataclass(frozen=True)
class LocatedPatches:
    """Patches of CLAM or TRIDENT on an opened slide.

    :ivar corners: int64 (N, 2), level-0 pixels.
    :ivar sides: (width, height) of a patch, level-0 pixels.
    :ivar size: side of a patch in pixels.
    :ivar overhanging: number of patches that extend beyond the slide and are left out.
    :ivar mpp: µm per pixel of the patches.
    :ivar identity: of the slide.
    :ivar sha256: of the file of coordinates.
    :ivar geometry: attributes of ``coords``.
    :ivar remarks: warnings about the slide.
    """

    corners: NDArray[np.int64]
    sides: tuple[float, float]
    size: int
    overhanging: int
    mpp: float
    identity: str
    sha256: str
    geometry: dict[str, Any]
    remarks: tuple[str, ...] = ()


def of_peers(config: EmbedConfig) -> SlidePatches:
    """Patches of CLAM or TRIDENT. Slides are opened for their resolution, in worker processes, since some crash OpenSlide.

    :raises ConfigError: there are no slides, no coordinates of any slide, or patches of several resolutions or sizes.
    :raises ArtefactError: no slide can be used.
    """
    root, folder = Path(config.slides or ""), Path(config.patches)
    entries = {entry.slide_id: entry for entry in _discovered(root)}
    files, strangers = coordinates.find(folder, entries)
    failures = [_without_slide(Path(name).stem, Path(name), config) for name in strangers]
    tasks = {slide_id: (files[slide_id], entries[slide_id], config.slide_mpp) for slide_id in sorted(files)}
    found: dict[str, LocatedPatches] = {}
    for result in run_tasks(look, tasks, workers=max(1, config.workers or 1), timeout=config.slide_timeout):
        if isinstance(result.value, LocatedPatches):
            found[result.key] = result.value
        elif isinstance(result.error, Lost):
            failures.append(
                Failure(
                    result.key,
                    files[result.key].name,
                    result.error.reason,
                    "the slide may be damaged, or its disk slow: try a longer --slide-timeout",
                )
            )
        elif isinstance(result.error, SgclError):
            failures.append(Failure(result.key, files[result.key].name, result.error.message, result.error.hint))
        else:
            assert result.error is not None
            raise result.error
    if not found:
        raise ArtefactError(f"none of {len(tasks)} slides can be used: {failures[0].reason}", failures[0].hint)
    kind = _common(found)
    bags, jobs, start = [], {}, 0
    for slide_id in sorted(found):
        one = found[slide_id]
        columns = {"coords": one.corners, "grid": np.full((len(one.corners), 2), -1, np.int32)}
        source_id = store.artefact_id(_PEERS, {}, [slide_id, one.identity, one.sha256])
        attributes = {"source_identity": one.identity}
        bags.append(
            Bag(slide_id, source_id, files[slide_id], start, len(one.corners), columns, attributes, one.geometry, True)
        )
        jobs[slide_id] = SlideJob(
            entries[slide_id], one.corners, one.sides, one.size, None, config.slide_mpp, one.identity
        )
        start += len(one.corners)
    overhanging = {slide_id: one.overhanging for slide_id, one in found.items() if one.overhanging}
    warnings = [
        f"{name}: {count} patches extend beyond the slide and are left out" for name, count in overhanging.items()
    ]
    warnings += [f"{slide_id}: {remark}" for slide_id, one in found.items() for remark in one.remarks]
    source = store.artefact_id("folder", {}, sorted(bag.source_id for bag in bags))
    return SlidePatches(source, kind, bags, jobs, failures, warnings)


def _common(found: dict[str, LocatedPatches]) -> Kind:
    """Resolution and size of the patches of all slides.

    :raises ConfigError: they differ.
    """
    first, *others = found.items()
    for slide_id, one in others:
        if one.size != first[1].size:
            raise ConfigError(
                f"patches of {slide_id} are {one.size} pixels, of {first[0]} {first[1].size}", "embed them separately"
            )
        if abs(one.mpp / first[1].mpp - 1) > _MIXED:
            raise ConfigError(
                f"patches of {slide_id} are at {one.mpp:.4g} µm/px, of {first[0]} at {first[1].mpp:.4g}",
                "embed them separately: features at different resolutions cannot be compared",
            )
    return Kind(round(statistics.median(one.mpp for one in found.values()), 4), first[1].size)


def look(progress: Progress, path: Path, entry: Entry, default_mpp: float | None) -> LocatedPatches:
    """Open a slide and locate the patches of CLAM or TRIDENT on it; runs in a worker.

    :raises SlideError: the slide cannot be opened, has no resolution, or the coordinates belong to another slide.
    :raises ArtefactError: the file of coordinates is damaged, or of another kind.
    """
    recorded = coordinates.read(path)
    check_whole(entry.path)
    with Slide(entry.path, given_mpp=entry.mpp, default_mpp=default_mpp) as slide:
        located = locate(path, recorded, slide)
        mpp = located.sides[0] * slide.mpps[0] / recorded.patch_size
        geometry: dict[str, Any] = {
            "level0_width": slide.size[0],
            "level0_height": slide.size[1],
            "mpp_target": mpp,
            "name": entry.slide_id,
        }
        if slide.mpps[0] == slide.mpps[1]:
            geometry |= peers.trident(located.sides[0], recorded.patch_size, slide.mpp) | {"mpp_level0": slide.mpp}
        else:
            oblong = {peers.EXACT: np.array(located.sides), "mpp_level0_xy": np.array(slide.mpps)}
            geometry |= {"patch_size": recorded.patch_size, **oblong}
        unique = identity(entry.path, entry.further)
        remarks = tuple(slide.remarks)
    return LocatedPatches(
        located.corners,
        located.sides,
        recorded.patch_size,
        located.overhanging,
        mpp,
        unique,
        recorded.sha256,
        geometry,
        remarks,
    )


def read_patches(job: SlideJob, share: Callable[[], int]) -> Iterator[tuple[int, NDArray[np.uint8] | SgclError]]:
    """The patches of a slide, uint8 (size, size, 3), each with its row in ``corners``; called by ``Readers``.

    :raises SlideError: the slide cannot be opened, or is not the one that the coordinates belong to.
    """
    cv2.setNumThreads(1)
    try:
        check_whole(job.entry.path)
        if job.identity is not None and identity(job.entry.path, job.entry.further) != job.identity:
            raise SlideError(f"{job.entry.path.name} is not the slide that was tiled", "tile it again")
        mpp = job.given_mpp if job.given_mpp is not None else job.entry.mpp
        with Slide(job.entry.path, given_mpp=mpp, default_mpp=job.default_mpp) as slide, Threads(share) as threads:
            if job.sides[0] == job.sides[1] and slide.mpps[0] == slide.mpps[1]:
                yield from _in_bands(slide, job, threads)
            else:
                yield from _oblong(slide, job)
    except OSError as error:
        raise SlideError(f"{job.entry.path.name} cannot be read: {error}", "check the path and the disk") from error


def _in_bands(slide: Slide, job: SlideJob, threads: Threads) -> Iterator[tuple[int, NDArray[np.uint8] | SgclError]]:
    patch = bands.Patch(job.sides[0], job.size)
    with direct.opened(slide, job.corners, patch) as (source, plan):
        first, end = _first(np.concatenate([band.order for band in plan]), job), 0
        for band in plan:
            begin, end = end, end + band.stop - band.start
            if end <= first:
                continue
            for place, made in enumerate(bands.read(slide, source, band, job.corners, patch, threads=threads), begin):
                if place >= first:
                    yield made


def _first(order: NDArray[np.int64], job: SlideJob) -> int:
    """The position in the reading order at which reading is continued: the beginning of the batch with the first unfinished row.

    The last bits of a feature depend on the batch that it is encoded in, so this batch is encoded as a whole.
    """
    place = int((order >= job.done).argmax())
    return place // job.batch * job.batch


def _oblong(slide: Slide, job: SlideJob) -> Iterator[tuple[int, NDArray[np.uint8] | SgclError]]:
    slide.cache(_CACHE)
    for row in range(_first(np.arange(len(job.corners)), job), len(job.corners)):
        try:
            yield row, slide.region(tuple(job.corners[row].tolist()), job.sides, (job.size, job.size))
        except SlideError as error:
            yield row, error
