"""Annotation files: QuPath's GeoJSON, ASAP's XML, tables of points, mask images.

Their content is not trusted: sizes are limited before decoding, XML with a DTD or entities is refused, and unknown content is
refused with a message instead of guessed.

Formats: GeoJSON, RFC 7946, in level-0 pixels with properties.classification.name, as QuPath exports it
(https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html); ASAP's XML with the groups of CAMELYON16
(_0 and _1 are tumour, _2 is cut out of it) and CAMELYON17 (https://camelyon17.grand-challenge.org/Data/).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.artefacts import reading, store
from sgcl_cli.config import whole_number
from sgcl_cli.errors import ConfigError, LabelError, SlideError
from sgcl_cli.slide.annotations.frames import Frame
from sgcl_cli.slide.annotations.outlines import Annotation, Areas, Points, Raster, Region, Ring
from sgcl_cli.slide.numbers import decimal
from sgcl_cli.slide.open.tiff import image_pages

MASKS = (".png", ".tif", ".tiff")

_LARGEST_FILE = 2**28  # bytes
_LARGEST_MASK = 2**28  # pixels
_LARGEST_COORDINATE = 1e7  # level-0 pixels
_MOST_CLASSES = 1000
NO_CLASS = "without a class"
NO_AREA = "points or lines"
DEGENERATE = "outlines that enclose nothing"
_MOST_POINTS = 3_000_000  # of a GeoJSON file: a gigabyte of memory, half a minute
_NO_CLASS = ("", "unknown", "none")
_CAMELYON = {"_0": "tumor", "_1": "tumor"}
_CUT_OUT = ("_2", "Exclusion")
_AREA_TYPES = ("Polygon", "Spline", "Rectangle")


@dataclass(frozen=True)
class MaskReading:
    """Settings for mask images.

    :ivar mpp: µm per pixel of the masks; None if they are as large as their slides.
    :ivar classes: class of each value; None if each value above 0 is a class.
    """

    mpp: float | None = None
    classes: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Content:
    """Content of an annotation file.

    :ivar sha256: of the file.
    :ivar annotation: outlines or points; None for a mask.
    :ivar names: classes that occur.
    :ivar spellings: the classes as written in the file, with blanks at the ends.
    :ivar values: of a mask, (H, W); its position is known only with its slide.
    :ivar passed_over: number of objects that are ignored, by reason.
    """

    sha256: str
    annotation: Areas | Points | None
    names: frozenset[str]
    spellings: frozenset[str] = frozenset()
    values: NDArray[np.integer[Any]] | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, reading: MaskReading) -> Content:
    """Read and check a file of any of the formats.

    :raises LabelError: the file is unreadable, damaged or too large, or has too many classes.
    """
    data, sha256 = _bytes(path)
    suffix = path.suffix.lower()
    if suffix in MASKS:
        values = _mask_values(path, data)
        classes = _mask_classes(values, reading)
        names = frozenset(classes.values())
        return _limited(path, Content(sha256, None, names, names, values))
    parsers: dict[str, Callable[[Path, bytes, _Tally], Areas | Points]] = {".xml": _asap, ".csv": _table}
    tally = _Tally()
    try:
        annotation = parsers.get(suffix, _geojson)(path, data, tally)
    except RecursionError as error:
        raise LabelError(f"{path} is nested too deeply", "export it again") from error
    spellings = frozenset(tally.spellings)
    return _limited(path, Content(sha256, annotation, annotation.names, spellings, passed_over=tally.passed_over))


def placed(
    content: Content, path: Path, reading: MaskReading, frame: Frame, mpp: tuple[float, float]
) -> tuple[Annotation, int]:
    """The annotation in level-0 pixels of its slide, and the number of objects outside the slide, which are left out.

    :param mpp: horizontal and vertical µm per level-0 pixel.
    :raises SlideError: a mask without resolution does not have the size of its frame.
    """
    if content.annotation is not None:
        return frame.placed(content.annotation)
    assert content.values is not None
    height, width = content.values.shape
    scale = (1.0, 1.0) if reading.mpp is None else (reading.mpp / mpp[0], reading.mpp / mpp[1])
    if reading.mpp is None and (width, height) != frame.size:
        raise SlideError(
            f"{path.name} is {width} x {height} pixels, {_whole(frame)} {frame.size[0]} x {frame.size[1]}",
            _remedy_of_size((width, height), frame),
        )
    return Raster(content.values, scale, _mask_classes(content.values, reading), frame.corner), 0


def _whole(frame: Frame) -> str:
    return "its slide" if frame.size == frame.slide else "the scanned part of its slide"


def _remedy_of_size(size: tuple[int, int], frame: Frame) -> str:
    if frame.bounds is not None and size == frame.bounds.size:
        return "it is as large as the scanned part of the slide: use --annotations-origin bounds"
    return "give the resolution of the masks with --mask-mpp, or masks of the slides' full size"


@dataclass(frozen=True)
class Regions:
    """Content of a file of regions of interest.

    :ivar regions: its polygons.
    :ivar sha256: of the file.
    :ivar passed_over: number of objects that are ignored, by reason.
    """

    regions: tuple[Region, ...]
    sha256: str
    passed_over: Mapping[str, int]


def read_regions(path: Path) -> Regions:
    """All polygons of a GeoJSON file, of any class except those that end with ``*``.

    :raises LabelError: the file is unreadable or not GeoJSON.
    """
    data, sha256 = _bytes(path)
    tally, regions = _Tally(), list[Region]()
    for feature in _features(_json(path, data), path):
        if not _qupath_class(feature).strip().endswith("*"):
            regions += _regions("", _polygons(feature.get("geometry"), path), tally)
    return Regions(tuple(regions), sha256, tally.passed_over)


def parse_mask_values(text: str) -> dict[int, str]:
    """Parse ``255=tumour,0=other`` to the class of each value.

    :raises ConfigError: the text is not of that form, or gives a value twice.
    """
    classes: dict[int, str] = {}
    for part in split_names(text):
        text, equals, name = part.partition("=")
        value = whole_number(text, 0, 2**32 - 1)
        if not equals or value is None or not name.strip() or "=" in name or value in classes:
            raise ConfigError(f"--mask-values has '{part}'", "example: --mask-values 255=tumour,0=other")
        classes[value] = name.strip()
    return classes


def split_names(text: str) -> list[str]:
    """Split names at commas; a name that contains a comma is written in double quotes."""
    return [name.strip() for name in next(csv.reader(io.StringIO(text), skipinitialspace=True), []) if name.strip()]


def in_order(names: Iterator[str] | frozenset[str]) -> tuple[str, ...]:
    """Classes in the order of their labels: whole numbers by value, then other names by code point."""
    return tuple(sorted(names, key=lambda name: (0, int(name), "") if _short_number(name) else (1, 0, name)))


def _short_number(name: str) -> bool:
    return whole_number(name, 0, 10**18) is not None


def _bytes(path: Path) -> tuple[bytes, str]:
    """A file's content and its sha256."""
    try:
        if reading.plain(path).stat().st_size > _LARGEST_FILE:
            raise LabelError(f"{path} has more than {_LARGEST_FILE >> 20} MiB", "split or simplify the annotation")
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
    return data, hashlib.sha256(data).hexdigest()


def _limited(path: Path, content: Content) -> Content:
    if len(content.names) > _MOST_CLASSES:
        raise LabelError(
            f"{path} names {len(content.names)} classes, more than {_MOST_CLASSES}",
            "check that it names classes, not single objects",
        )
    if not all(map(reading.is_valid_text, content.names)):
        raise LabelError(f"{path} has a class name that is not valid Unicode", "rename the class, and export again")
    return content


@dataclass
class _Tally:
    """Counts made while a file is read.

    :ivar spellings: classes as written in the file.
    :ivar passed_over: number of ignored objects, by reason.
    """

    spellings: set[str] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)


def _geojson(path: Path, data: bytes, tally: _Tally) -> Areas:
    regions: list[Region] = []
    for feature in _features(_json(path, data), path):
        spelling = _qupath_class(feature)
        name = spelling.strip()
        polygons = list(_polygons(feature.get("geometry"), path))
        if name.lower() in _NO_CLASS or name.endswith("*"):
            tally.passed_over[NO_CLASS] += 1
        elif not polygons:
            tally.passed_over[NO_AREA] += 1
        else:
            found = _regions(name, polygons, tally)
            regions += found
            tally.spellings |= {spelling} if found else set()
    return Areas(tuple(regions))


def _regions(name: str, polygons: Iterable[list[Ring]], tally: _Tally) -> list[Region]:
    """Polygons as regions of a class; outlines that enclose nothing are counted, and such holes left out."""
    found = []
    for outline, *holes in polygons:
        if _encloses(outline):
            found.append(Region(name, outline, tuple(hole for hole in holes if _encloses(hole))))
        else:
            tally.passed_over[DEGENERATE] += 1
    return found


def _encloses(ring: Ring) -> bool:
    """Whether a ring encloses an area: its points are not all on one line."""
    if len(ring) < 3:
        return False
    steps = ring - ring[0]
    longest = steps[np.argmax((steps**2).sum(axis=1))]
    aside = np.abs(steps[:, 0] * longest[1] - steps[:, 1] * longest[0])
    return bool(aside.max() > 1e-9 * (longest**2).sum())


def _json(path: Path, data: bytes) -> Any:
    points = data.count(b"[")
    if points > _MOST_POINTS:
        raise LabelError(
            f"{path} has some {points:,} points, more than {_MOST_POINTS:,}", "simplify the outlines, or split the file"
        )
    try:
        return reading.parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise LabelError(f"{path} is not JSON: {error}", "export it again, as GeoJSON") from error


def _features(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Features of a FeatureCollection, of a list of Features (older QuPath), or a single Feature."""
    features = content
    if isinstance(content, dict):
        features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(features, list) or not all(
        isinstance(feature, dict) and feature.get("type") == "Feature" for feature in features
    ):
        raise LabelError(f"{path} is not GeoJSON with features", "export it from QuPath as GeoJSON")
    yield from features


def _qupath_class(feature: Mapping[str, Any]) -> str:
    """Name of the classification as written; the parts of a compound one are joined as in QuPath."""
    properties = feature.get("properties")
    given = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(given, dict):
        names = given.get("names")
        given = given.get("name", ": ".join(map(str, names)) if isinstance(names, list) else "")
    return given if isinstance(given, str) else ""


def _polygons(geometry: Any, path: Path) -> Iterator[list[Ring]]:
    """The rings of each polygon; points and lines are skipped."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for member in _listed(geometry.get("geometries"), path):
            yield from _polygons(member, path)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = _listed(geometry.get("coordinates"), path)
        for rings in polygons if kind == "MultiPolygon" else [polygons]:
            if _listed(rings, path):
                yield [_ring(ring, path) for ring in rings]


def _listed(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise LabelError(f"{path} has a geometry without coordinates", "export it again")
    return value


def _ring(points: Any, path: Path) -> Ring:
    """The points of a ring, float64 (V, 2); coordinates after x and y are ignored.

    :raises LabelError: the points are not pairs of numbers, or outside the range of level-0 pixels.
    """
    hint = "export it again, in pixels of the full resolution"
    try:
        given = np.array([[point[0], point[1]] for point in points]).reshape(-1, 2)
        if given.dtype.kind == "O":  # whole numbers of any length
            given = given.astype(np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise LabelError(f"{path} has a polygon whose points are not pairs of numbers", "export it again") from error
    if given.dtype.kind in "US":
        raise LabelError(f"{path} has coordinates that are strings", "write them as numbers, without quotes")
    if given.dtype.kind not in "iuf":
        raise LabelError(f"{path} has a polygon whose points are not pairs of numbers", hint)
    if not np.isfinite(given).all() or np.abs(given).max(initial=0) > _LARGEST_COORDINATE:
        raise LabelError(f"{path} has a polygon with coordinates that cannot be level-0 pixels", hint)
    return given.astype(np.float64)


def _asap(path: Path, data: bytes, tally: _Tally) -> Areas:
    """ASAP's XML: Annotation elements with PartOfGroup and a list of Coordinate elements, sorted by Order."""
    shapes: list[tuple[str, str, list[tuple[str, str, str]]]] = []
    root = ""

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal root
        root = root or tag
        if tag == "Annotation":
            shapes.append((attributes.get("PartOfGroup", ""), attributes.get("Type", ""), []))
        elif tag == "Coordinate" and shapes:
            shapes[-1][2].append((attributes.get("Order", ""), attributes.get("X", ""), attributes.get("Y", "")))

    def refuse(*_: Any) -> None:
        raise LabelError(f"{path} declares a DTD or entities", "such XML is refused; export it again from ASAP")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise LabelError(f"{path} is not XML: {error}", "export it again from ASAP") from error
    if root != "ASAP_Annotations":
        raise LabelError(f"{path} begins with {root}, not ASAP_Annotations", "export it from ASAP")
    kept: list[Region] = []
    cut_out: list[Region] = []
    for group, kind, points in shapes:
        if group.strip().lower() in _NO_CLASS:
            tally.passed_over[NO_CLASS] += 1
        elif kind not in _AREA_TYPES:
            tally.passed_over[NO_AREA] += 1
        else:
            name = _CAMELYON.get(group, group.strip())
            found = _regions(name, [[_ring(_numbers(points, path), path)]], tally)
            (cut_out if group in _CUT_OUT else kept).extend(found)
            tally.spellings |= {_CAMELYON.get(group, group)} if found and group not in _CUT_OUT else set()
    return Areas(tuple(kept), tuple(cut_out))


def _numbers(points: Sequence[tuple[str, str, str]], path: Path) -> list[tuple[float, float]]:
    """Pairs of numbers from Order, X and Y of XML attributes; in the file's order unless Order numbers all points differently.

    Decimal commas are accepted.
    """
    order = {number: point for point in points if (number := whole_number(point[0], 0, 10**9)) is not None}
    in_order = [order[number] for number in sorted(order)] if len(order) == len(points) else points
    try:
        return [(float(x.replace(",", ".")), float(y.replace(",", "."))) for _, x, y in in_order]
    except ValueError as error:
        raise LabelError(f"{path} has a polygon whose points are not pairs of numbers", "export it again") from error


def _table(path: Path, data: bytes, tally: _Tally) -> Points:
    """A table with columns x, y, name, radius_px, in level-0 pixels; decimal commas are accepted."""
    rows = store.read_table(path, ["x", "y", "name", "radius_px"])
    thousands = b"," in data.partition(b"\n")[0]
    numbers = np.array(
        [
            [_number(row[key], thousands, path, line) for key in ("x", "y", "radius_px")]
            for line, row in enumerate(rows, 2)
        ]
    )
    numbers = numbers.reshape(-1, 3)
    if (numbers[:, 2] < 0).any():
        raise LabelError(
            f"{path}, row {int(np.argmax(numbers[:, 2] < 0)) + 2} has a negative radius_px", "correct the table"
        )
    named = [row["name"].lower() not in _NO_CLASS for row in rows]
    chosen = numbers[named]
    classes = tuple(row["name"] for row, kept in zip(rows, named, strict=True) if kept)
    tally.passed_over[NO_CLASS] += len(rows) - len(classes)
    tally.spellings.update(classes)
    return Points(chosen[:, :2], chosen[:, 2], classes)


def _number(text: str, thousands: bool, path: Path, line: int) -> float:
    value = decimal(text, thousands)
    if not abs(value) <= _LARGEST_COORDINATE:
        raise LabelError(
            f"{path}, row {line}: '{text}' is not a number of level-0 pixels",
            "correct the table; write no thousands separators",
        )
    return value


def _mask_values(path: Path, data: bytes) -> NDArray[np.integer[Any]]:
    """The values of an image with one channel; the indices if it has a palette."""
    refusal = "save it as PNG or TIFF with one channel of whole numbers"
    try:
        values = _tiff_values(path, data) if path.suffix.lower() != ".png" else _png_values(path, data)
    except LabelError:
        raise
    except Exception as error:  # decoders raise exceptions of any class on damaged strips
        raise LabelError(f"{path} is not a readable image: {error}", refusal) from error
    if values.ndim != 2 or values.dtype.kind not in "ub":
        raise LabelError(f"{path} has shape {values.shape} of {values.dtype}", refusal)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _png_values(path: Path, data: bytes) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_pixels(path, image.width * image.height)
            values = np.asarray(image)
            return values.astype(np.uint32) if image.mode == "I" else values


def _tiff_values(path: Path, data: bytes) -> NDArray[Any]:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        _check_pixels(path, math.prod(page.shape))
        same = sum(other.shape == page.shape for other in image_pages(tiff))
        if same > 1:
            raise ValueError(f"it has {same} images of one size")
        dtype = page.dtype
        if dtype is None or dtype.kind not in "ub" or len(page.shape) != 2:
            raise ValueError(f"it has shape {page.shape} of {dtype}")
        return np.asarray(page.asarray())


def _check_pixels(path: Path, count: int) -> None:
    if count > _LARGEST_MASK:
        raise LabelError(
            f"{path} has {count:,} pixels, more than {_LARGEST_MASK:,}", "save it smaller, and give --mask-mpp"
        )


def _mask_classes(values: NDArray[np.integer[Any]], reading: MaskReading) -> dict[int, str]:
    if reading.classes is not None:
        return dict(reading.classes)
    return {int(value): str(value) for value in np.unique(values) if value > 0}
