"""Files in which people mark slides: QuPath's GeoJSON, ASAP's XML, tables of points, mask images.

They come from outside, so nothing in them is trusted: sizes are capped before decoding, XML with a DTD or entities is refused,
and what is not understood is refused by name rather than guessed.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from sgcl_cli.slide.annotations.outlines import Annotation, Areas, Points, Raster, Region, Ring

OUTLINES = (".geojson", ".json")
MASKS = (".png", ".tif", ".tiff")
EXTENSIONS = (*OUTLINES, ".xml", ".csv", *MASKS)

_LARGEST_FILE = 2**28  # bytes
_LARGEST_MASK = 2**28  # pixels
_LARGEST_COORDINATE = 1e7  # level-0 pixels
_MOST_CLASSES = 1000
_MOST_POINTS = 3_000_000  # of a GeoJSON file: a gigabyte of memory, half a minute
_NO_CLASS = ("", "unknown", "none")
_CAMELYON = {"_0": "tumor", "_1": "tumor"}
_CUT_OUT = ("_2", "Exclusion")
_AREA_TYPES = ("Polygon", "Spline", "Rectangle")
_SHOWN = 3


@dataclass(frozen=True)
class MaskReading:
    """How mask images are read.

    :ivar mpp: um per pixel of them; None where they are as large as their slides.
    :ivar classes: the class of each value; None where every value above 0 is a class of its own.
    """

    mpp: float | None = None
    classes: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Content:
    """What a file holds: an annotation, or of a mask the values, whose place is known only with its slide.

    :ivar passed_over: how many objects have no class or no area.
    """

    sha256: str
    annotation: Annotation | None
    names: frozenset[str]
    values: NDArray[np.integer[Any]] | None = None
    passed_over: int = 0


def find(
    folder: Path, slide_ids: Sequence[str], slides: Sequence[Path], extensions: Sequence[str] = EXTENSIONS
) -> tuple[dict[str, Path], list[str]]:
    """The file of each slide that has one, and the names of files that belong to no slide.

    A file belongs to the slide whose id is its name up to a dot, or up to ``_mask``; of several such ids to the longest.

    :param slides: the slides themselves, which may lie in the same folder.
    :raises ConfigError: no such folder, two files of one slide, or no file of any.
    """
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "absent"
        raise ConfigError(f"{folder} is {what}", "give a folder with one file a slide, named by slide_id")
    known = {path.resolve() for path in slides}
    files: dict[str, Path] = {}
    strangers: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in extensions or path.resolve() in known:
            continue
        slide_id = _owner(path, slide_ids)
        if slide_id is None:
            strangers.append(path.name)
        elif slide_id in files:
            raise ConfigError(
                f"{folder} has two files for slide {slide_id}: {files[slide_id].name} and {path.name}", "remove one"
            )
        else:
            files[slide_id] = path
    if not files:
        found = f"; it has {', '.join(strangers[:_SHOWN])}" if strangers else ""
        raise ConfigError(
            f"no file in {folder} is named by one of the slides{found}",
            f"name them <slide_id> with {', '.join(extensions)}",
        )
    return files, strangers


def _owner(path: Path, slide_ids: Sequence[str]) -> str | None:
    known = set(slide_ids)
    stem = path.name[: -len(path.suffix)]
    parts = stem.split(".")
    for count in range(len(parts), 0, -1):
        beginning = ".".join(parts[:count])
        for candidate in (beginning, beginning.removesuffix("_mask")):
            if candidate in known:
                return candidate
    return None


def read(path: Path, reading: MaskReading) -> Content:
    """Read and check one file of any of the formats.

    :raises LabelError: unreadable, not of its format, too large, or with too many classes.
    """
    data, sha256 = _bytes(path)
    suffix = path.suffix.lower()
    if suffix in MASKS:
        values = _mask_values(path, data)
        classes = _mask_classes(values, reading)
        return _limited(path, Content(sha256, None, frozenset(classes.values()), values))
    parsers: dict[str, Callable[[Path, bytes], tuple[Annotation, int]]] = {".xml": _asap, ".csv": _table}
    try:
        annotation, passed_over = parsers.get(suffix, _geojson)(path, data)
    except RecursionError as error:
        raise LabelError(f"{path} is nested too deeply", "export it again") from error
    return _limited(path, Content(sha256, annotation, annotation.names, passed_over=passed_over))


def placed(
    content: Content, path: Path, reading: MaskReading, size: tuple[int, int], mpp: tuple[float, float]
) -> Annotation:
    """The annotation on its slide; only masks have to be fitted.

    :param size: (width, height) of the slide's level 0.
    :param mpp: (across, down) um per level-0 pixel.
    :raises SlideError: a mask without resolution is not as large as its slide, in proportion.
    """
    if content.annotation is not None:
        return content.annotation
    assert content.values is not None
    height, width = content.values.shape
    if reading.mpp is not None:
        scale = reading.mpp / mpp[0], reading.mpp / mpp[1]
    else:
        scale = size[0] / width, size[1] / height
        if (width, height) != size:
            raise SlideError(
                f"{path.name} is {width} x {height} pixels, its slide {size[0]} x {size[1]}",
                "give the resolution of the masks with --mask-mpp, or masks of the slides' full size",
            )
    return Raster(content.values, scale, _mask_classes(content.values, reading))


def read_regions(path: Path) -> tuple[tuple[Region, ...], str]:
    """All polygons of a GeoJSON file, whatever their class, but not those whose class ends with ``*``; and its sha256.

    :raises LabelError: unreadable, or not GeoJSON.
    """
    data, sha256 = _bytes(path)
    regions = tuple(
        Region("", rings[0], tuple(rings[1:]))
        for feature in _features(_json(path, data), path)
        for rings in _polygons(feature.get("geometry"), path)
        if not _qupath_class(feature).endswith("*")
    )
    return regions, sha256


def parse_mask_values(text: str) -> dict[int, str]:
    """``255=tumour,0=other`` as value and class.

    :raises ConfigError: not of that form.
    """
    classes: dict[int, str] = {}
    for part in split_names(text):
        text, equals, name = part.partition("=")
        value = whole_number(text, 0, 2**32 - 1)
        if not equals or value is None or not name.strip():
            raise ConfigError(f"--mask-values has '{part}'", "example: --mask-values 255=tumour,0=other")
        classes[value] = name.strip()
    return classes


def split_names(text: str) -> list[str]:
    """Names between commas; one that holds a comma stands in double quotes."""
    return [name.strip() for name in next(csv.reader(io.StringIO(text), skipinitialspace=True), []) if name.strip()]


def in_order(names: Iterator[str] | frozenset[str]) -> tuple[str, ...]:
    """Classes in the order of their labels: numbers by value, then texts by code point."""
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
            "are these names of objects rather than of classes?",
        )
    return content


def _geojson(path: Path, data: bytes) -> tuple[Areas, int]:
    regions, passed_over = [], 0
    for feature in _features(_json(path, data), path):
        name = _qupath_class(feature)
        polygons = list(_polygons(feature.get("geometry"), path))
        if name.lower() in _NO_CLASS or name.endswith("*") or not polygons:
            passed_over += 1
            continue
        regions += [Region(name, rings[0], tuple(rings[1:])) for rings in polygons]
    return Areas(tuple(regions)), passed_over


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
    """Features of a FeatureCollection, of a plain list of them as older QuPath writes it, or the one that there is."""
    features = content
    if isinstance(content, dict):
        features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(features, list) or not all(
        isinstance(feature, dict) and feature.get("type") == "Feature" for feature in features
    ):
        raise LabelError(f"{path} is not GeoJSON with features", "export it from QuPath as GeoJSON")
    yield from features


def _qupath_class(feature: Mapping[str, Any]) -> str:
    """The classification's name; of a compound one the parts as QuPath joins them."""
    properties = feature.get("properties")
    given = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(given, dict):
        names = given.get("names")
        given = given.get("name", ": ".join(map(str, names)) if isinstance(names, list) else "")
    return given.strip() if isinstance(given, str) else ""


def _polygons(geometry: Any, path: Path) -> Iterator[list[Ring]]:
    """The rings of each polygon; points and lines have no area and are passed over."""
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
    try:
        ring = np.array([[float(point[0]), float(point[1])] for point in points], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise LabelError(f"{path} has a polygon whose points are not pairs of numbers", "export it again") from error
    if len(ring) < 3 or not np.isfinite(ring).all() or np.abs(ring).max() > _LARGEST_COORDINATE:
        raise LabelError(
            f"{path} has a polygon with fewer than three points, or coordinates that are no level-0 pixels",
            "export it again, in pixels of the full resolution",
        )
    return ring


def _asap(path: Path, data: bytes) -> tuple[Areas, int]:
    """ASAP's XML: Annotation elements with PartOfGroup and a list of Coordinate elements."""
    shapes: list[tuple[str, str, list[tuple[str, str]]]] = []
    root = ""

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal root
        root = root or tag
        if tag == "Annotation":
            shapes.append((attributes.get("PartOfGroup", ""), attributes.get("Type", ""), []))
        elif tag == "Coordinate" and shapes:
            shapes[-1][2].append((attributes.get("X", ""), attributes.get("Y", "")))

    def refuse(*_: Any) -> None:
        raise LabelError(f"{path} declares a DTD or entities", "such XML is refused; export it again from ASAP")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # an encoding that it does not know is a LookupError
        raise LabelError(f"{path} is not XML: {error}", "export it again from ASAP") from error
    if root != "ASAP_Annotations":
        raise LabelError(f"{path} begins with {root}, not ASAP_Annotations", "export it from ASAP")
    areas = [shape for shape in shapes if shape[1] in _AREA_TYPES and shape[0].strip().lower() not in _NO_CLASS]
    regions = [(group, Region(_CAMELYON.get(group, group.strip()), _ring(points, path))) for group, _, points in areas]
    kept = tuple(region for group, region in regions if group not in _CUT_OUT)
    cut_out = tuple(region for group, region in regions if group in _CUT_OUT)
    return Areas(kept, cut_out), len(shapes) - len(areas)


def _table(path: Path, data: bytes) -> tuple[Points, int]:
    """Columns x, y, name, radius_px; decimal commas are understood."""
    rows = store.read_table(path, ["x", "y", "name", "radius_px"])
    numbers = np.array(
        [[_number(row[key], path, line) for key in ("x", "y", "radius_px")] for line, row in enumerate(rows, 2)]
    )
    numbers = numbers.reshape(-1, 3)
    named = [row["name"].lower() not in _NO_CLASS for row in rows]
    chosen = numbers[named]
    classes = tuple(row["name"] for row, kept in zip(rows, named, strict=True) if kept)
    return Points(chosen[:, :2], chosen[:, 2], classes), len(rows) - len(classes)


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not 0 <= value <= _LARGEST_COORDINATE:
        raise LabelError(f"{path}, row {line}: '{text}' is no number of level-0 pixels", "correct the table")
    return value


def _mask_values(path: Path, data: bytes) -> NDArray[np.integer[Any]]:
    """The one channel of an image; the index of the colour where it has a palette."""
    refusal = "save it as PNG or TIFF with one channel of whole numbers"
    try:
        values = _tiff_values(path, data) if path.suffix.lower() != ".png" else _png_values(path, data)
    except LabelError:
        raise
    except Exception as error:  # decoders of damaged strips fail in any way
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
