"""The part of a slide that was scanned, where the slide says so.

Source: openslide.bounds-x, -y, -width and -height (https://openslide.org/properties/); SCN and MIRAX have them. OpenSlide
counts from the corner of the whole slide all the same; viewers that show the scanned part alone count from the corner of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Bounds(NamedTuple):
    """The corner (x, y) and the size of the scanned part, level-0 pixels; the corner may be negative (MIRAX)."""

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
    """What OpenSlide's properties record; None unless all four numbers are there and whole."""
    try:
        found = Bounds(*(int(properties[f"openslide.bounds-{name}"]) for name in Bounds._fields))
    except (KeyError, ValueError):
        return None
    return found if found.width > 0 and found.height > 0 else None
