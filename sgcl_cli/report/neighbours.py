"""neighbours.png: a few anchors with their positives, negatives and nearest patches, on the slide and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.report.drawing import ACCENT, INK, LINE, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = NDArray[np.uint8]
COLOURS = (ACCENT, "#6d28d9", "#b45309", "#0369a1")
_LEGEND = "numbers: cosine of v with the anchor's;   dashed frame: on another slide;   squares on the slide: the patches shown"
_ANCHOR = "#dc2626"
_WIDTH, _BLOCK, _FOOT = 11.9, 3.9, 0.3  # inches
_PITCH = 1.06  # pictures' widths
_DOT = 14.0  # points squared


@dataclass(frozen=True)
class NeighbourRow:
    """Patches of one kind: ``pictures`` uint8 (H, W, 3), a caption each, and whether it lies on another slide.

    :ivar places: float64 (n, 2), centres of those that lie on the anchor's slide, level-0 pixels.
    """

    name: str
    pictures: Sequence[Picture]
    captions: Sequence[str]
    elsewhere: Sequence[bool]
    places: NDArray[np.float64]


@dataclass(frozen=True)
class Anchor:
    """One anchor: its picture, its centre on the slide, the slide, and one row a kind.

    :ivar place: x, y of its centre, level-0 pixels.
    :ivar tissue: float64 (n, 2), centres of the slide's patches, drawn where there is no thumbnail.
    :ivar side: of a patch, level-0 pixels.
    :ivar thumbnail: uint8 (h, w, 3) of the whole slide, or None.
    :ivar extent: (width, height) of the slide at level 0.
    """

    slide: str
    picture: Picture
    place: tuple[float, float]
    tissue: NDArray[np.float64]
    side: float
    thumbnail: Picture | None
    extent: tuple[float, float]
    rows: Sequence[NeighbourRow]


def draw_neighbours(anchors: Sequence[Anchor], path: str | Path) -> None:
    """Draw one block an anchor: where its examples lie on its slide, and what they look like, most similar first.

    :raises ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = _BLOCK * len(anchors) + _FOOT
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    blocks = figure.add_gridspec(
        len(anchors),
        3,
        width_ratios=(3.4, 1.5, 6.7),
        left=0.008,
        right=0.995,
        top=1 - 0.25 / height,
        bottom=(_FOOT + 0.05) / height,
        wspace=0.03,
        hspace=0.09,
    )
    for number, anchor in enumerate(anchors):
        _draw_slide(figure.add_subplot(blocks[number, 0]), anchor)
        _draw_anchor(figure.add_subplot(blocks[number, 1]), anchor)
        most = max(1, *(len(row.pictures) for row in anchor.rows))
        cells = blocks[number, 2].subgridspec(len(anchor.rows), 1, hspace=0.26)
        for line, (row, colour) in enumerate(zip(anchor.rows, COLOURS, strict=False)):
            _draw_row(figure.add_subplot(cells[line, 0]), row, most, colour)
    figure.text(0.008, 0.08 / height, _LEGEND, fontsize=8, color=MUTED)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None}, pil_kwargs={"compress_level": 4})


def _draw_slide(axis: Axes, anchor: Anchor) -> None:
    width, height = anchor.extent
    if anchor.thumbnail is not None:
        axis.imshow(anchor.thumbnail, extent=(0, width, height, 0), interpolation="bilinear")
    else:
        axis.scatter(anchor.tissue[:, 0], anchor.tissue[:, 1], s=_DOT / 3, marker="s", color=LINE, linewidths=0)
    for row, colour in reversed(list(zip(anchor.rows, COLOURS, strict=False))):
        axis.scatter(
            row.places[:, 0], row.places[:, 1], s=_DOT, marker="s", facecolor="none", edgecolor=colour, linewidths=0.9
        )
    axis.scatter(*anchor.place, s=5 * _DOT, marker="o", facecolor="none", edgecolor=_ANCHOR, linewidths=1.6)
    _fit(axis, anchor)
    axis.set_title(
        anchor.slide if len(anchor.slide) <= 40 else anchor.slide[:39] + "…",
        fontsize=8.5,
        color=INK,
        loc="left",
        pad=4,
        parse_math=False,
    )


def _fit(axis: Axes, anchor: Anchor) -> None:
    """Show the part of the slide that has patches."""
    low, high = anchor.tissue.min(0) - 2 * anchor.side, anchor.tissue.max(0) + 2 * anchor.side
    axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", anchor="N")
    _bare(axis, LINE)


def _draw_anchor(axis: Axes, anchor: Anchor) -> None:
    axis.imshow(anchor.picture, interpolation="bilinear")
    axis.set(anchor="N")
    axis.set_title("anchor", fontsize=8.5, color=_ANCHOR, loc="left", pad=4)
    _bare(axis, _ANCHOR)


def _draw_row(axis: Axes, row: NeighbourRow, most: int, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axis.set_title(row.name, fontsize=8.5, color=colour, loc="left", pad=4)
    for place, (picture, caption, elsewhere) in enumerate(zip(row.pictures, row.captions, row.elsewhere, strict=True)):
        left = place * _PITCH
        axis.imshow(picture, extent=(left, left + 1, 1, 0), interpolation="bilinear")
        line = (0, (3, 2)) if elsewhere else "solid"
        axis.add_patch(Rectangle((left, 0), 1, 1, fill=False, edgecolor=colour, linewidth=1.5, linestyle=line))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8}
        axis.text(left + 0.05, 0.94, caption, fontsize=6.5, color=INK, parse_math=False, bbox=box)
    axis.set(xlim=(-0.01, most * _PITCH), ylim=(1.01, -0.01), aspect="equal", anchor="NW")
    axis.set_axis_off()


def _bare(axis: Axes, colour: str) -> None:
    settings: dict[str, Any] = {"xticks": [], "yticks": []}
    axis.set(**settings)
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=1.4)
