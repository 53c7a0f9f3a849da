"""Annotations and regions of interest of a cohort, found and checked before any slide is tiled.

The order of classes is determined over all files, so that labels have the same meaning on every slide.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts.spelling import listed, lookalikes
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Lost, Progress, run_tasks
from sgcl_cli.errors import ConfigError, LabelError, SlideError
from sgcl_cli.slide.annotations import files as annotation_files
from sgcl_cli.slide.annotations.files import MaskReading
from sgcl_cli.slide.annotations.find import EXTENSIONS, OUTLINES, Found, find
from sgcl_cli.slide.annotations.frames import Frame, origin_of
from sgcl_cli.slide.annotations.outlines import Annotation, Areas, Region
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile import coordinates

_READING_TIMEOUT = 600.0  # seconds
_SHOWN = 3
_CORNERS = {"bounds": "the corner of the scanned part, as in QuPath", "slide": "the corner of the slide, as in ASAP"}


@dataclass(frozen=True)
class Drawing:
    """An annotation file.

    :ivar path: the file.
    :ivar sha256: of its content when it was checked.
    """

    path: Path
    sha256: str

    def as_source(self) -> dict[str, str]:
        """Name and sha256, as recorded in the file of patches."""
        return {"name": self.path.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Drawn:
    """The files that belong to one slide; None for those that it does not have.

    :ivar annotation: file of annotations.
    :ivar roi: file of regions of interest.
    :ivar coords: file of coordinates from CLAM or TRIDENT.
    :ivar names: the cohort's classes in the order of their labels; None if the cohort has no annotations.
    """

    annotation: Drawing | None = None
    roi: Drawing | None = None
    coords: Drawing | None = None
    names: tuple[str, ...] | None = None

    @property
    def sources(self) -> list[str]:
        """The part of the patches' id that depends on these files."""
        parts: list[tuple[str, Any]] = [
            ("annotation", self.annotation and self.annotation.sha256),
            ("roi", self.roi and self.roi.sha256),
            ("coords", self.coords and self.coords.sha256),
            ("label_names", self.names),
        ]
        return [f"{name} {json.dumps(value)}" for name, value in parts if value is not None]

    def as_source(self) -> dict[str, Any]:
        """The files as recorded in the file of patches."""
        files = {"annotation": self.annotation, "roi": self.roi, "coords": self.coords}
        return {name: drawing.as_source() for name, drawing in files.items() if drawing is not None}

    def changes(self, source: dict[str, Any], names: Sequence[str]) -> list[str]:
        """Differences from the files with which existing patches were made, one phrase each.

        :param source: the record of files in the file of patches.
        :param names: classes of the patches.
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
    """A phrase if the class names differ, else an empty list."""
    if tuple(before) == tuple(now or ()):
        return []
    return [f"classes were {_few(before) or 'none'}, are {_few(now or ()) or 'none'} (--label-names fixes them)"]


@dataclass(frozen=True)
class Drawings:
    """The files of all slides.

    :ivar names: classes in the order of their labels; None without annotations.
    :ivar of: files of each slide that has any, by slide id.
    :ivar notes: warnings for the user.
    :ivar refused: errors of slides with a required file that is missing or cannot be used, by slide id.
    """

    names: tuple[str, ...] | None = None
    of: dict[str, Drawn] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: dict[str, SlideError] = field(default_factory=dict)

    def drawn(self, slide_id: str) -> Drawn:
        """The files of a slide."""
        return self.of.get(slide_id, Drawn(names=self.names))


def settle(config: TileConfig, entries: Sequence[Entry], workers: int) -> Drawings:
    """Find and check all files of ``--annotations``, ``--roi`` and ``--from-coords``, and determine the classes.

    A slide with an unreadable file, or with two files, fails; the others are tiled.

    :raises ConfigError: a folder without any file of these slides, or wrong --mask-values.
    :raises LabelError: no file can be read, or there are no classes.
    """
    notes: list[str] = []
    refused: dict[str, SlideError] = {}
    annotations: dict[str, Checked] = {}
    rois: dict[str, Checked] = {}
    names: tuple[str, ...] | None = None
    if config.annotations is not None:
        annotations = _read_all(config, "annotations", entries, workers, notes=notes, refused=refused)
        names = _names(config, annotations, notes)
    if config.roi is not None:
        rois = _read_all(config, "roi", entries, workers, notes=notes, refused=refused)
    supplied = coordinates.settle(config, entries)
    of = {
        slide_id: Drawn(
            annotation=_drawing(annotations.get(slide_id)),
            roi=_drawing(rois.get(slide_id)),
            coords=Drawing(*supplied.files[slide_id]) if slide_id in supplied.files else None,
            names=names,
        )
        for slide_id in {*annotations, *rois, *supplied.files}
    }
    return Drawings(names, of, (*notes, *supplied.notes), refused | supplied.refused)


def _drawing(checked: Checked | None) -> Drawing | None:
    return None if checked is None else Drawing(checked.path, checked.sha256)


@dataclass(frozen=True)
class OnSlide:
    """Annotation and region of interest of a slide, in its level-0 pixels.

    :ivar annotation: None if the slide has none.
    :ivar roi: polygons of the region of interest; None if the slide has none.
    :ivar remarks: messages on objects that are ignored or doubtful.
    """

    annotation: Annotation | None = None
    roi: tuple[Region, ...] | None = None
    remarks: tuple[str, ...] = ()


def on_slide(drawn: Drawn, config: TileConfig, slide: Slide) -> OnSlide:
    """Read the annotation and the region of interest of a slide.

    :raises SlideError: a file does not fit the slide, cannot be read, or has changed since it was checked.
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
    return annotation, [_off_slide_note(path, off), frame.doubt(path, areas, "--annotations-origin")]


def _roi(drawing: Drawing | None, config: TileConfig, slide: Slide) -> tuple[tuple[Region, ...] | None, list[str]]:
    if drawing is None:
        return None, []
    found = annotation_files.read_regions(drawing.path)
    _check_unchanged(drawing, found.sha256)
    frame = Frame.of(drawing.path, slide.size, slide.bounds, config.roi_origin)
    kept, off = frame.regions(found.regions)
    return kept, [_off_slide_note(drawing.path, off), frame.doubt(drawing.path, kept, "--roi-origin")]


def _off_slide_note(path: Path, count: int) -> str:
    return f"{count} objects of {path.name} lie outside the slide and are ignored" if count else ""


def origin_notes(drawings: Drawings, config: TileConfig, cropped: Sequence[str]) -> list[str]:
    """Notes on the origin of coordinates on slides with a scanned part, one line per option and origin.

    :param cropped: ids of slides that record a scanned part.
    """
    notes = []
    for what, asked in (("annotation", config.annotations_origin), ("roi", config.roi_origin)):
        slides: dict[str, list[str]] = {}
        for slide_id in cropped:
            drawing: Drawing | None = getattr(drawings.drawn(slide_id), what)
            if drawing is not None:
                slides.setdefault(origin_of(drawing.path, asked), []).append(slide_id)
        notes += [
            f"--{_option(what)}: the origin of coordinates on {len(names)} slides with openslide.bounds-* is "
            f"{_CORNERS[origin]}: {_few(names)}"
            for origin, names in sorted(slides.items())
        ]
    return notes


def mask_reading(config: TileConfig) -> MaskReading:
    """The settings for mask images.

    :raises ConfigError: --mask-values cannot be parsed.
    """
    classes = None if config.mask_values is None else annotation_files.parse_mask_values(config.mask_values)
    return MaskReading(config.mask_mpp, classes)


def _check_unchanged(drawing: Drawing, sha256: str) -> None:
    if sha256 != drawing.sha256:
        raise SlideError(f"{drawing.path.name} has changed while the cohort was tiled", "run the same command again")


@dataclass(frozen=True)
class Checked:
    """Result of checking a file; fields as in ``slide.annotations.files.Content``."""

    path: Path
    sha256: str
    names: frozenset[str] = frozenset()
    spellings: frozenset[str] = frozenset()
    passed_over: Mapping[str, int] = field(default_factory=dict)


def _read_all(
    config: TileConfig,
    what: str,
    entries: Sequence[Entry],
    workers: int,
    *,
    notes: list[str],
    refused: dict[str, SlideError],
) -> dict[str, Checked]:
    """Check every file of a folder that belongs to a slide in worker processes.

    :param notes: warnings are appended.
    :param refused: errors of slides with an unusable file are added.
    :raises LabelError: no file can be read.
    """
    folder = Path(getattr(config, what))
    extensions = OUTLINES if what == "roi" else EXTENSIONS
    found = find(folder, [entry.slide_id for entry in entries], [entry.path for entry in entries], extensions)
    unusable = {
        slide_id: SlideError(f"--{what} has {len(names)} files for it: {', '.join(names)}", "remove all but one")
        for slide_id, names in found.doubled.items()
    }
    tasks = {slide_id: (path, what, mask_reading(config)) for slide_id, path in found.files.items()}
    checked = {}
    for result in run_tasks(_check, tasks, workers=workers, timeout=_READING_TIMEOUT):
        if result.value is not None:
            checked[result.key] = result.value
        elif isinstance(result.error, Lost):
            reason = f"{found.files[result.key].name} cannot be read: {result.error.reason}"
            unusable[result.key] = SlideError(reason, "simplify or remove it")
        elif isinstance(result.error, LabelError):
            unusable[result.key] = SlideError(result.error.message, result.error.hint)
        else:
            assert result.error is not None
            raise result.error
    if not checked:
        first = next(iter(unusable.values()))
        raise LabelError(first.message, first.hint)
    refused |= unusable
    notes += _file_notes(what, found, [entry.slide_id for entry in entries])
    notes += _object_notes(what, checked)
    return checked


def _file_notes(what: str, found: Found, slide_ids: Sequence[str]) -> Iterator[str]:
    """Warnings on the matching of files and slides."""
    if found.strangers:
        yield f"--{what}: {len(found.strangers)} files belong to no slide, the first is {found.strangers[0]}"
    ends = {name.removeprefix(slide_id) for slide_id, name in found.loosely.items()}
    if found.loosely and not len(ends) == 1 < len(found.loosely):
        pairs = [f"{name} for slide {slide_id}" for slide_id, name in found.loosely.items()]
        yield f"--{what}: files that match only by the beginning of their names: {_few(pairs)}"
    missing = sorted(set(slide_ids) - set(found.files) - set(found.doubled))
    if missing:
        effect = "their tissue is detected as usual" if what == "roi" else "their patches have label -1"
        yield f"--{what}: {len(missing)} of {len(slide_ids)} slides have no file, {effect}: {_few(missing)}"


def _object_notes(what: str, checked: Mapping[str, Checked]) -> Iterator[str]:
    """A warning on ignored objects over all files: the number of each kind, and the first file with one."""
    total: Counter[str] = Counter()
    first: dict[str, str] = {}
    for one in checked.values():
        total.update(one.passed_over)
        first |= {reason: one.path.name for reason, count in one.passed_over.items() if count and reason not in first}
    kinds = [f"{count} {reason} (first in {first[reason]})" for reason, count in sorted(total.items()) if count]
    if kinds:
        yield f"--{what}: objects that are ignored: {', '.join(kinds)}"


def _check(progress: Progress, path: Path, what: str, reading: MaskReading) -> Checked:
    if what == "roi":
        found = annotation_files.read_regions(path)
        return Checked(path, found.sha256, passed_over=found.passed_over)
    content = annotation_files.read(path, reading)
    return Checked(path, content.sha256, content.names, content.spellings, content.passed_over)


def _names(config: TileConfig, checked: Mapping[str, Checked], notes: list[str]) -> tuple[str, ...]:
    occurring = frozenset[str]().union(*(one.names for one in checked.values()))
    notes += _spelling_notes(checked.values())
    if config.label_names is None:
        if not occurring:
            raise LabelError(
                f"no annotation in {config.annotations} has a class",
                "set the class of the annotations, or leave the option out",
            )
        return annotation_files.in_order(occurring)
    names = annotation_files.split_names(config.label_names)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--label-names '{config.label_names}' is empty or has a class twice", "example: a,b,c")
    if not occurring & set(names):
        raise LabelError(
            f"none of --label-names occurs in {config.annotations}; found: {_few(annotation_files.in_order(occurring))}",
            "spell them as in the annotations",
        )
    for what, some in (("are ignored", occurring - set(names)), ("do not occur", frozenset(names) - occurring)):
        if some:
            notes.append(f"classes that {what}: {_few(annotation_files.in_order(some))}")
    return tuple(names)


def _spelling_notes(checked: Iterable[Checked]) -> Iterator[str]:
    """Warnings on classes with several spellings, with one file for each."""
    where = {spelling: one.path.name for one in checked for spelling in one.spellings}
    for group in lookalikes(where):
        spelled = " and ".join(f"'{name}' ({where[name]})" for name in group)
        alike = len({name.strip() for name in group}) == 1
        yield (
            f"classes that differ only in blanks are treated as one: {spelled}"
            if alike
            else f"classes that differ only in case or blanks are different classes: {spelled}; spell them alike if they are one"
        )


def _option(what: str) -> str:
    return {"annotation": "annotations", "coords": "from-coords"}.get(what, what)


def _few(names: Sequence[str]) -> str:
    return listed(names, _SHOWN, quoted=False)
