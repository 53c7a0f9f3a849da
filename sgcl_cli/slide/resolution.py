"""What a slide records about its resolution, and whether that can be believed.

Sources: OpenSlide's properties (https://openslide.org/properties/) and TIFF 6.0, section "Physical dimensions".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import tifffile

from sgcl_cli.errors import SlideError

MppSource = Literal["openslide", "tiff", "given"]

_SQUARE_TOLERANCE = 1.01
_MOST_OBLONG = 4.0  # beyond it the record is taken for a mistake
_MPP_BELIEVED = (0.05, 50.0)
_DPI_OF_SOFTWARE = (72, 96, 150, 300)


def positive(text: str | None) -> float | None:
    """The number that a property records, where it is one above 0."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def resolution(
    path: Path, properties: Mapping[str, str], given: float | None, default: float | None
) -> tuple[tuple[float, float], MppSource]:
    """um per level-0 pixel across and down and where they come from: given, else recorded, else the default; never guessed."""
    for value in (given, default):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SlideError(f"{path.name}: a resolution of {value} um/px was given", "give a positive number")
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
    """What a slide records instead of a usable resolution."""


def _recorded_resolution(path: Path, properties: Mapping[str, str]) -> tuple[tuple[float, float], MppSource]:
    """The vendor's record, else the TIFF's tags.

    A generic TIFF's ``openslide.mpp`` is what OpenSlide makes of the tags, so there the tags themselves are judged.
    """
    recorded = [properties[name] for name in ("openslide.mpp-x", "openslide.mpp-y") if name in properties]
    if len(recorded) == 2 and properties.get("openslide.vendor") != "generic-tiff":
        return _proper(path, *map(_credible, recorded)), "openslide"
    tags = _tiff_resolution(path)
    if tags is None:
        raise _NoResolutionError("no resolution")
    return _proper(path, *tags), "tiff"


def _credible(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise _NoResolutionError(f"a resolution of {text} um/px, which is none")
    low, high = _MPP_BELIEVED
    if not low <= value <= high:
        raise _NoResolutionError(f"{value:.4g} um/px, which is outside {low:g} to {high:g} and counts as none")
    return value


def _proper(path: Path, mpp_x: float, mpp_y: float) -> tuple[float, float]:
    """Both resolutions; their mean twice where the pixels are as good as square."""
    oblong = max(mpp_x, mpp_y) / min(mpp_x, mpp_y)
    if oblong > _MOST_OBLONG:
        raise SlideError(
            f"{path.name} records pixels of {mpp_x:.4g} um across and {mpp_y:.4g} down, which no scanner makes",
            "give the true resolution as column mpp of --list",
        )
    mean = (mpp_x + mpp_y) / 2
    return (mpp_x, mpp_y) if oblong > _SQUARE_TOLERANCE else (mean, mean)


def _tiff_resolution(path: Path) -> tuple[float, float] | None:
    """(x, y) um per pixel from XResolution, YResolution and ResolutionUnit; None where they say nothing credible."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            unit, x, y = (tags.valueof(name) for name in ("ResolutionUnit", "XResolution", "YResolution"))
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError):
        return None
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(unit)
    if um_per_unit is None or not x or not y or not all((*x, *y)):
        return None
    mpp_x, mpp_y = (um_per_unit * denominator / numerator for numerator, denominator in (x, y))
    written_by_software = any(math.isclose(mpp_x, 25_400 / dpi, rel_tol=1e-4) for dpi in _DPI_OF_SOFTWARE)
    credible = all(_MPP_BELIEVED[0] <= value <= _MPP_BELIEVED[1] for value in (mpp_x, mpp_y))
    return (mpp_x, mpp_y) if credible and not written_by_software else None
