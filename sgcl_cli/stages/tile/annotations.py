"""What people drew on the slides of a cohort: found, checked and named before any slide is tiled.

Class names are settled over all files at once, so that every slide's labels mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Lost, Progress, run_tasks
from sgcl_cli.errors import ConfigError, LabelError, SlideError
from sgcl_cli.slide.annotations import files as annotation_files
from sgcl_cli.slide.annotations.files import MaskReading
from sgcl_cli.slide.annotations.frames import Frame, origin_of
from sgcl_cli.slide.annotations.outlines import Annotation, Areas, Region
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile import coordinates

_READING_TIMEOUT = 600.0  # seconds
_SHOWN = 3
_CORNERS = {"bounds": "the corner of the scanned part, as in QuPath", "slide": "the slide's own corner, as in ASAP"}


@dataclass(frozen=True)
class Drawing:
    """A file, and the sha256 of its content when it was checked."""

    path: Path
    sha256: str

    def as_source(self) -> dict[str, str]:
        """What the patches remember of it."""
        return {"name": self.path.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Drawn:
    """What was drawn on one slide.

    :ivar coords: not drawn, but brought along as well: a peer's coordinate file.
    :ivar names: the cohort's classes in the order of their labels; None where nothing is annotated at all.
    """

    annotation: Drawing | None = None
    roi: Drawing | None = None
    coords: Drawing | None = None
    names: tuple[str, ...] | None = None

    @property
    def sources(self) -> list[str]:
        """What the patches' id depends on."""
        parts: list[tuple[str, Any]] = [
            ("annotation", self.annotation and self.annotation.sha256),
            ("roi", self.roi and self.roi.sha256),
            ("coords", self.coords and self.coords.sha256),
            ("label_names", self.names),
        ]
        return [f"{name} {json.dumps(value)}" for name, value in parts if value is not None]

    def as_source(self) -> dict[str, Any]:
        """What the patches remember of the files."""
        files = {"annotation": self.annotation, "roi": self.roi, "coords": self.coords}
        return {name: drawing.as_source() for name, drawing in files.items() if drawing is not None}

    def changes(self, source: dict[str, Any], names: Sequence[str]) -> list[str]:
        """What differs from what patches were made with, one phrase each.

        :param source: the patches' record of their sources.
        :param names: the patches' classes.
        """
        found = []
        for what, now in (("annotation", self.annotation), ("roi", self.roi), ("coords", self.coords)):
            before = source.get(what)
            if before is None and now is not None:
                found.append(f"--{_option(what)} had no file for this slide, has {now.path.name}")
            elif before is not None and now is None:
                found.append(f"--{_option(what)} had {before['name']}, has no file for this slide")
            elif before is not None and now is not None and before["sha256"] != now.sha256:
                found.append(f"--{_option(what)}: {now.path.name} has changed")
        return [*found, *renamed(names, self.names)]


def renamed(before: Sequence[str], now: Sequence[str] | None) -> list[str]:
    """The phrase for other class names, if they are other."""
    if tuple(before) == tuple(now or ()):
        return []
    return [f"classes were {_listed(before) or 'none'}, are {_listed(now or ()) or 'none'} (--label-names fixes them)"]


@dataclass(frozen=True)
class Drawings:
    """What was drawn on each slide, by slide id, and what the user should know.

    :ivar refused: slides that cannot be tiled, since what they need is missing or of no use.
    """

    names: tuple[str, ...] | None = None
    of: dict[str, Drawn] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: dict[str, SlideError] = field(default_factory=dict)

    def drawn(self, slide_id: str) -> Drawn:
        """What belongs to a slide."""
        return self.of.get(slide_id, Drawn(names=self.names))


def settle(config: TileConfig, entries: Sequence[Entry], workers: int) -> Drawings:
    """Find and check all files of ``--annotations``, ``--roi`` and ``--from-coords``, and settle the classes.

    :raises ConfigError: a folder without any file of these slides, two files of one slide, wrong --mask-values.
    :raises LabelError: a file that cannot be read, or no class at all.
    """
    notes: list[str] = []
    annotations: dict[str, Drawing] = {}
    names: tuple[str, ...] | None = None
    if config.annotations is not None:
        read = _read_all(config, "annotations", entries, workers, notes)
        annotations = {slide_id: Drawing(path, sha256) for slide_id, (path, sha256, _, _) in read.items()}
        names = _names(config, [classes for _, _, classes, _ in read.values()], notes)
        passed_over = sum(count for *_, count in read.values())
        if passed_over:
            notes.append(f"{passed_over} annotated objects have no class or no area and do not count")
    rois: dict[str, Drawing] = {}
    if config.roi is not None:
        checked = _read_all(config, "roi", entries, workers, notes)
        rois = {slide_id: Drawing(path, sha256) for slide_id, (path, sha256, _, _) in checked.items()}
    supplied = coordinates.settle(config, entries)
    coords = {slide_id: Drawing(path, sha256) for slide_id, (path, sha256) in supplied.files.items()}
    of = {
        name: Drawn(annotations.get(name), rois.get(name), coords.get(name), names)
        for name in {*annotations, *rois, *coords}
    }
    return Drawings(names, of, (*notes, *supplied.notes), supplied.refused)


@dataclass(frozen=True)
class OnSlide:
    """What was drawn, as it lies on its slide: level-0 pixels of the slide.

    :ivar annotation: None where the slide has none.
    :ivar roi: the region of interest; None where the slide has none.
    :ivar remarks: what of both does not count, or is doubtful.
    """

    annotation: Annotation | None = None
    roi: tuple[Region, ...] | None = None
    remarks: tuple[str, ...] = ()


def on_slide(drawn: Drawn, config: TileConfig, slide: Slide) -> OnSlide:
    """Read what was drawn on a slide.

    :raises SlideError: it does not fit the slide, cannot be read any more, or has changed since it was checked.
    """
    try:
        annotation, of_annotation = _annotation(drawn.annotation, config, slide)
        roi, of_roi = _roi(drawn.roi, config, slide)
    except LabelError as error:
        raise SlideError(error.message, error.hint) from error
    return OnSlide(annotation, roi, tuple(filter(None, [*of_annotation, *of_roi])))


def _annotation(drawing: Drawing | None, config: TileConfig, slide: Slide) -> tuple[Annotation | None, list[str]]:
    if drawing is None:
        return None, []
    reading, path = mask_reading(config), drawing.path
    content = annotation_files.read(path, reading)
    _check_unchanged(drawing, content.sha256)
    frame = Frame.of(path, slide.size, slide.bounds, config.annotations_origin)
    annotation, off = annotation_files.placed(content, path, reading, frame, slide.mpps)
    areas = annotation.regions if isinstance(annotation, Areas) else ()
    return annotation, [_said_off(path, off), frame.doubt(path, areas, "--annotations-origin")]


def _roi(drawing: Drawing | None, config: TileConfig, slide: Slide) -> tuple[tuple[Region, ...] | None, list[str]]:
    if drawing is None:
        return None, []
    regions, sha256 = annotation_files.read_regions(drawing.path)
    _check_unchanged(drawing, sha256)
    frame = Frame.of(drawing.path, slide.size, slide.bounds, config.roi_origin)
    kept, off = frame.regions(regions)
    return kept, [_said_off(drawing.path, off), frame.doubt(drawing.path, kept, "--roi-origin")]


def _said_off(path: Path, count: int) -> str:
    return f"{count} objects of {path.name} lie off the slide and do not count" if count else ""


def said_origins(drawings: Drawings, config: TileConfig, cropped: Sequence[str]) -> list[str]:
    """From where coordinates were counted on slides of which a part was scanned, a line for each kind of file.

    :param cropped: the ids of those slides.
    """
    said = []
    for what, asked in (("annotation", config.annotations_origin), ("roi", config.roi_origin)):
        slides: dict[str, list[str]] = {}
        for slide_id in cropped:
            drawing: Drawing | None = getattr(drawings.drawn(slide_id), what)
            if drawing is not None:
                slides.setdefault(origin_of(drawing.path, asked), []).append(slide_id)
        said += [
            f"--{_option(what)}: on {len(names)} slides with openslide.bounds-* coordinates count from {_CORNERS[origin]}: "
            f"{_listed(names)}"
            for origin, names in sorted(slides.items())
        ]
    return said


def mask_reading(config: TileConfig) -> MaskReading:
    """How the settings say that masks are read.

    :raises ConfigError: --mask-values is not of its form.
    """
    classes = None if config.mask_values is None else annotation_files.parse_mask_values(config.mask_values)
    return MaskReading(config.mask_mpp, classes)


def _check_unchanged(drawing: Drawing, sha256: str) -> None:
    if sha256 != drawing.sha256:
        raise SlideError(f"{drawing.path.name} has changed while the cohort was tiled", "run the same command again")


Checked = tuple[Path, str, frozenset[str], int]  # path, sha256, classes, objects passed over


def _read_all(
    config: TileConfig, what: str, entries: Sequence[Entry], workers: int, notes: list[str]
) -> dict[str, Checked]:
    """Every file of a folder that belongs to a slide, read once by a worker."""
    folder = Path(getattr(config, what))
    extensions = annotation_files.OUTLINES if what == "roi" else annotation_files.EXTENSIONS
    slide_ids = [entry.slide_id for entry in entries]
    files, strangers = annotation_files.find(folder, slide_ids, [entry.path for entry in entries], extensions)
    if strangers:
        notes.append(f"--{what}: {len(strangers)} files belong to no slide, first {strangers[0]}")
    if len(files) < len(entries):
        missing = sorted(set(slide_ids) - set(files))
        effect = "their tissue is found as usual" if what == "roi" else "their patches have label -1"
        notes.append(f"--{what}: {len(missing)} of {len(entries)} slides have no file, {effect}: {_listed(missing)}")
    tasks = {slide_id: (path, what, mask_reading(config)) for slide_id, path in files.items()}
    checked = {}
    for result in run_tasks(_check, tasks, workers=workers, timeout=_READING_TIMEOUT):
        if result.value is None:
            if isinstance(result.error, Lost):
                raise LabelError(f"{files[result.key]} cannot be read: {result.error.reason}", "simplify or remove it")
            assert result.error is not None
            raise result.error
        checked[result.key] = result.value
    return checked


def _check(progress: Progress, path: Path, what: str, reading: MaskReading) -> Checked:
    if what == "roi":
        _, sha256 = annotation_files.read_regions(path)
        return path, sha256, frozenset(), 0
    content = annotation_files.read(path, reading)
    return path, content.sha256, content.names, content.passed_over


def _names(config: TileConfig, found: Iterable[frozenset[str]], notes: list[str]) -> tuple[str, ...]:
    occurring = frozenset[str]().union(*found)
    if config.label_names is None:
        if not occurring:
            raise LabelError(
                f"no annotation in {config.annotations} has a class",
                "classify the annotations, or leave the option out",
            )
        return annotation_files.in_order(occurring)
    names = annotation_files.split_names(config.label_names)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--label-names '{config.label_names}' is empty or names a class twice", "example: a,b,c")
    if not occurring & set(names):
        raise LabelError(
            f"none of --label-names occurs in {config.annotations}; found: {_listed(annotation_files.in_order(occurring))}",
            "spell them as in the annotations",
        )
    for what, some in (("do not count", occurring - set(names)), ("do not occur", frozenset(names) - occurring)):
        if some:
            notes.append(f"classes that {what}: {_listed(annotation_files.in_order(some))}")
    return tuple(names)


def _option(what: str) -> str:
    return {"annotation": "annotations", "coords": "from-coords"}.get(what, what)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN + 1 else ""
    return ", ".join(names[: _SHOWN if more else None]) + more
