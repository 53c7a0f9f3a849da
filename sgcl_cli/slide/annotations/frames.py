"""The origin of annotation coordinates on slides of which only a part was scanned (``slide.open.bounds``).

QuPath shows only the scanned part, and its GeoJSON is relative to the corner of that part
(https://github.com/qupath/qupath/issues/820). ASAP shows the whole slide, and its XML is relative to the slide's corner, like
OpenSlide's coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgcl_cli.config import choices
from sgcl_cli.slide.annotations.outlines import Annotation, Areas, Points, Region
from sgcl_cli.slide.open.bounds import Bounds

Origin = choices.AnnotationsOrigin

OF_QUPATH = (".geojson", ".json")
_BEYOND = (128, 0.02)  # level-0 pixels, or share of the scanned part, that outlines may extend beyond its edge


@dataclass(frozen=True)
class Frame:
    """The reference frame of a file's coordinates on its slide.

    :ivar slide: (width, height) of level 0, pixels.
    :ivar bounds: the scanned part; None if not recorded.
    :ivar origin: of the coordinates.
    :ivar asked: whether the user has set the origin.
    """

    slide: tuple[int, int]
    bounds: Bounds | None
    origin: Origin
    asked: bool

    @classmethod
    def of(cls, path: Path, slide: tuple[int, int], bounds: Bounds | None, asked: Origin | None) -> Frame:
        """The frame of a file: as set by the user, else that of the program that writes files of this type."""
        return cls(slide, bounds, origin_of(path, asked), asked is not None)

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of its origin, level-0 pixels of the slide."""
        return (0, 0) if self._part is None else self._part.corner

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frame, level-0 pixels."""
        return self.slide if self._part is None else self._part.size

    @property
    def _part(self) -> Bounds | None:
        return self.bounds if self.origin == "bounds" else None

    def regions(self, regions: Sequence[Region]) -> tuple[tuple[Region, ...], int]:
        """Outlines in level-0 pixels of the slide, and the number of those outside the slide, which are left out."""
        moved = [region.moved(self.corner) for region in regions]
        kept = tuple(region for region in moved if self._is_on_slide(region))
        return kept, len(moved) - len(kept)

    def placed(self, annotation: Areas | Points) -> tuple[Annotation, int]:
        """Outlines or points in level-0 pixels of the slide, and the number of those outside the slide, which are left out."""
        if isinstance(annotation, Areas):
            (kept, off), (cut_out, cut_off) = self.regions(annotation.regions), self.regions(annotation.cut_out)
            return Areas(kept, cut_out), off + cut_off
        centres = annotation.centres + self.corner
        on = np.flatnonzero(((centres >= 0) & (centres < self.slide)).all(axis=1))
        classes = tuple(annotation.classes[number] for number in on)
        return Points(centres[on], annotation.radii[on], classes), len(centres) - len(on)

    def doubt(self, path: Path, regions: Sequence[Region], option: str) -> str:
        """A warning if outlines contradict the assumed origin, else "".

        :param regions: in level-0 pixels of the slide.
        :param option: name of the option that sets the origin.
        """
        if self._part is None or self.asked or not regions:
            return ""
        (x, y), (width, height) = self.corner, self.size
        lows = [region.outline.min(axis=0) - (x, y) for region in regions]
        highs = [region.outline.max(axis=0) - (x + width, y + height) for region in regions]
        beyond = [max(-low[axis], high[axis]) for low, high in zip(lows, highs, strict=True) for axis in (0, 1)]
        if max(beyond) <= max(_BEYOND[0], _BEYOND[1] * max(width, height)):
            return ""
        return (
            f"{path.name} extends beyond the scanned part, the corner of which is taken for its origin; "
            f"use {option} slide if its origin is the corner of the slide"
        )

    def _is_on_slide(self, region: Region) -> bool:
        low, high = region.outline.min(axis=0), region.outline.max(axis=0)
        return bool((high > 0).all() and (low < self.slide).all())


def origin_of(path: Path, asked: Origin | None) -> Origin:
    """The origin of a file's coordinates: as set by the user, else the scanned part for GeoJSON and the slide for others."""
    return asked or ("bounds" if path.suffix.lower() in OF_QUPATH else "slide")
