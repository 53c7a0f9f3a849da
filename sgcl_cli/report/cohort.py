"""Overview of a cohort: one HTML file with a card per slide that can be filtered and sorted.

The file is self-contained and escapes every name. Its Content-Security-Policy allows its own style sheet and script (both by
hash) and ``data:`` images. The cards link to the overlays beside the file; the links alone break if it is moved.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgcl_cli.report.page import environment

STATUSES = (("done", "With patches"), ("warned", "With warnings"), ("empty", "Without patches"), ("failed", "Failed"))

_PICTURE_SIDE = 300  # pixels
_LEAST_SIDE = 96
_FULL_SIDE_SLIDES = 300


@dataclass(frozen=True)
class Class:
    """A class of the labels, or the patches without a label: name, colour as #rrggbb, number of patches."""

    name: str
    colour: str
    count: int


@dataclass(frozen=True)
class SlideCard:
    """One slide.

    :ivar status: words of ``STATUSES``, separated by spaces.
    :ivar picture: a small JPEG file, b"" where there is none.
    :ivar facts: (name, value), shown on the card.
    :ivar problems: warnings, the reason for a lack of patches, or the error with its hint.
    :ivar classes: patches by class, including those without a label.
    """

    slide_id: str
    status: str
    facts: Sequence[tuple[str, str]]
    picture: bytes = b""
    problems: Sequence[str] = ()
    classes: Sequence[Class] = ()
    patches: int | None = None
    tissue_mm2: float | None = None
    mpp: float | None = None
    seconds: float | None = None

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.picture).decode("ascii")

    @property
    def bars(self) -> list[dict[str, Any]]:
        """The classes as parts of a bar of length 100."""
        total = sum(part.count for part in self.classes)
        bars: list[dict[str, Any]] = []
        start = 0.0
        for part in self.classes:
            width = 100 * part.count / total if total else 0.0
            if width:
                name = f"{part.name}: {part.count:,}"
                bars.append({"start": round(start, 2), "width": round(width, 2), "colour": part.colour, "name": name})
            start += width
        return bars


@dataclass(frozen=True)
class CohortPage:
    """The content of index.html.

    :ivar facts: short phrases under the title.
    :ivar warnings: warnings about the cohort as a whole.
    :ivar classes: all classes with their counts over the cohort.
    :ivar command: the command line that made it.
    :ivar provenance: (name, value) of settings and ids.
    """

    title: str
    facts: Sequence[str]
    warnings: Sequence[str]
    slides: Sequence[SlideCard]
    command: str
    provenance: Sequence[tuple[str, str]]
    classes: Sequence[Class] = ()

    @property
    def statuses(self) -> list[tuple[str, str]]:
        """The statuses that occur."""
        occurring = {word for slide in self.slides for word in slide.status.split()}
        return [(value, name) for value, name in STATUSES if value in occurring]


def render(page: CohortPage) -> str:
    """The page as an HTML string."""
    made = environment()
    made.filters["machine"] = lambda value: "" if value is None else repr(value)
    return made.get_template("cohort.html").render(page=page)


def picture_side(slides: int) -> int:
    """Longer side of the pictures, pixels: smaller for large cohorts, which bounds the size of the page."""
    shrink = min(1.0, math.sqrt(_FULL_SIDE_SLIDES / max(1, slides)))
    return max(_LEAST_SIDE, round(_PICTURE_SIDE * shrink))
