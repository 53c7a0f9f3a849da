"""The resolution of a slide from its metadata, and checks that it is credible.

Sources: OpenSlide's properties (https://openslide.org/properties/), TIFF 6.0, section "Physical dimensions", and OME-XML's
Pixels (https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat

import tifffile

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.tiff import largest_page

MppSource = Literal["openslide", "tiff", "ome", "given"]

_SQUARE_TOLERANCE = 1.01
_MOST_OBLONG = 4.0  # ratio of the resolutions; more is taken for an error
_MPP_BELIEVED = (0.05, 50.0)
_DPI_OF_SOFTWARE = (72, 96, 150, 300)
_AGREE = 0.01  # largest relative difference between the tags and the OME-XML
_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0}


def positive(text: str | None) -> float | None:
    """The number that a property records; None unless it is finite and positive."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def resolution(
    path: Path, properties: Mapping[str, str], given: float | None, default: float | None
) -> tuple[tuple[float, float], MppSource]:
    """Horizontal and vertical µm per level-0 pixel, and their source: ``given``, else recorded, else ``default``; never guessed.

    :raises SlideError: none of the three, or a number that is not credible.
    """
    for value in (given, default):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SlideError(f"{path.name}: a resolution of {value} µm/px was given", "give a positive number")
    if given is not None:
        return (given, given), "given"
    try:
        return _recorded_resolution(path, properties)
    except _NoResolutionError as missing:
        if default is not None:
            return (default, default), "given"
        remedy = "give it with --slide-mpp, or as column mpp of --list"
        raise SlideError(f"{path.name} records {missing}", remedy) from missing


class _NoResolutionError(Exception):
    """The slide has no usable resolution; the message says what it records instead."""


def _recorded_resolution(path: Path, properties: Mapping[str, str]) -> tuple[tuple[float, float], MppSource]:
    """The vendor's record, else the TIFF's tags or its OME-XML.

    OpenSlide computes ``openslide.mpp`` of a generic TIFF from the tags, so the tags themselves are used.

    :raises SlideError: the tags and the OME-XML contradict each other.
    """
    recorded = [properties[name] for name in ("openslide.mpp-x", "openslide.mpp-y") if name in properties]
    if len(recorded) == 2 and properties.get("openslide.vendor") != "generic-tiff":
        return _proper(path, *map(_credible, recorded)), "openslide"
    tags, ome = _tiff_resolution(path)
    if tags is not None and ome is not None and any(abs(a / b - 1) > _AGREE for a, b in zip(tags, ome, strict=True)):
        raise SlideError(
            f"{path.name} contradicts itself: {tags[0]:.4g} µm/px by its TIFF tags, {ome[0]:.4g} by its OME-XML",
            "give the true resolution as column mpp of --list",
        )
    if tags is not None:
        return _proper(path, *tags), "tiff"
    if ome is not None:
        return _proper(path, *ome), "ome"
    raise _NoResolutionError("no resolution")


def _credible(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise _NoResolutionError(f"a resolution of {text} µm/px, which is not a positive number")
    low, high = _MPP_BELIEVED
    if not low <= value <= high:
        raise _NoResolutionError(f"{value:.4g} µm/px, which is outside {low:g} to {high:g} and not used")
    return value


def _proper(path: Path, mpp_x: float, mpp_y: float) -> tuple[float, float]:
    """Both resolutions; if they differ by at most 1 %, their mean twice.

    :raises SlideError: they differ by more than a factor of four.
    """
    oblong = max(mpp_x, mpp_y) / min(mpp_x, mpp_y)
    if oblong > _MOST_OBLONG:
        raise SlideError(
            f"{path.name} records pixels {mpp_x:.4g} µm wide and {mpp_y:.4g} µm high, as no scanner makes them",
            "give the true resolution as column mpp of --list",
        )
    mean = (mpp_x + mpp_y) / 2
    return (mpp_x, mpp_y) if oblong > _SQUARE_TOLERANCE else (mean, mean)


def _tiff_resolution(path: Path) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """(x, y) µm per pixel by the tags, and by the OME-XML, of the largest image; None if missing or not credible."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = largest_page(tiff)
            if page is None:
                return None, None
            return _by_tags(page), _by_ome(tiff, (page.imagewidth, page.imagelength))
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError):
        return None, None


def _by_tags(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """(x, y) µm per pixel from XResolution, YResolution and ResolutionUnit."""
    unit, x, y = (page.tags.valueof(name) for name in ("ResolutionUnit", "XResolution", "YResolution"))
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(unit)
    if um_per_unit is None or not x or not y or not all((*x, *y)):
        return None
    mpp_x, mpp_y = (um_per_unit * denominator / numerator for numerator, denominator in (x, y))
    written_by_software = any(math.isclose(mpp_x, 25_400 / dpi, rel_tol=1e-4) for dpi in _DPI_OF_SOFTWARE)
    return None if written_by_software else _believed(mpp_x, mpp_y)


def _by_ome(tiff: tifffile.TiffFile, size: tuple[int, int]) -> tuple[float, float] | None:
    """(x, y) µm per pixel from PhysicalSizeX and PhysicalSizeY of the Pixels element with the size of the image."""
    found: list[dict[str, str]] = []

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] == "Pixels" and (attributes.get("SizeX"), attributes.get("SizeY")) == (
            str(size[0]),
            str(size[1]),
        ):
            found.append(attributes)

    def refuse(*_: Any) -> None:
        raise ValueError("OME-XML with a DTD or entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(tiff.ome_metadata or "<none/>", True)
    except expat.ExpatError:
        return None
    for pixels in found:
        sizes = [positive(pixels.get(f"PhysicalSize{axis}")) for axis in "XY"]
        units = [_UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
        if None not in (*sizes, *units):
            x, y = (side * um for side, um in zip(sizes, units, strict=True) if side is not None and um is not None)
            return _believed(x, y)
    return None


def _believed(mpp_x: float, mpp_y: float) -> tuple[float, float] | None:
    return (mpp_x, mpp_y) if all(_MPP_BELIEVED[0] <= value <= _MPP_BELIEVED[1] for value in (mpp_x, mpp_y)) else None
