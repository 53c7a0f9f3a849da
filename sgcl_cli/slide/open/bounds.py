"""The scanned part of a slide, if the slide records one.

Source: openslide.bounds-x, -y, -width and -height (https://openslide.org/properties/), recorded by SCN and MIRAX. OpenSlide's
coordinates are relative to the corner of the whole slide; those of viewers that show only the scanned part, to the corner of
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Bounds(NamedTuple):
    """Corner and size of the scanned part, level-0 pixels; the corner may be negative (MIRAX)."""

    x: int
    y: int
    width: int
    height: int

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y)."""
        return self.x, self.y

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height


def bounds(properties: Mapping[str, str]) -> Bounds | None:
    """The bounds that OpenSlide's properties record; None unless all four are whole numbers and the size is positive."""
    try:
        found = Bounds(*(int(properties[f"openslide.bounds-{name}"]) for name in Bounds._fields))
    except (KeyError, ValueError):
        return None
    return found if found.width > 0 and found.height > 0 else None
