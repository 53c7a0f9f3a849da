"""neighbours.png: anchors with their positives, negatives and nearest patches, on the slide and as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.report.drawing import INK, LINE, MUTED, PALETTE

Picture = NDArray[np.uint8]
COLOURS = tuple(PALETTE[number] for number in (2, 3, 1, 0))
_INTRO = (
    "What the encoder takes for similar. Each block is an anchor patch with the patches that pull it (positives) and push it "
    "(negatives) in the loss, and with its nearest patches of the whole corpus."
)
_READING = (
    "Under each patch: cosine of its embedding v with that of the anchor (1: the same direction; 0: unrelated). "
    "Solid frame: same slide as the anchor; dashed: another slide. Squares on the slide mark the patches that are shown.",
    "Good: propagated positives and nearest patches show the anchor's kind of tissue and come from several slides; negatives "
    "show other tissue and have lower cosines. If the nearest share only its slide or stain, the encoder learns the slide.",
)
_ANCHOR = "#000000"
_WIDTH, _BLOCK, _HEAD, _FOOT = 11.9, 4.5, 0.6, 1.25  # inches
_PITCH = 1.06  # pictures' widths
_LABEL = 0.16  # pictures' heights, of the number below
_DOT = 14.0  # points squared


@dataclass(frozen=True)
class NeighbourRow:
    """Patches of one kind, most similar first.

    :ivar pictures: uint8 (H, W, 3) each.
    :ivar captions: one a picture.
    :ivar elsewhere: whether each lies on another slide than the anchor.
    :ivar places: float64 (n, 2), centres of those on the slide of the anchor, level-0 pixels.
    """

    name: str
    pictures: Sequence[Picture]
    captions: Sequence[str]
    elsewhere: Sequence[bool]
    places: NDArray[np.float64]


@dataclass(frozen=True)
class Anchor:
    """One anchor with its rows of patches.

    :ivar slide: the id of its slide.
    :ivar picture: uint8 (H, W, 3).
    :ivar place: x, y of its centre, level-0 pixels.
    :ivar tissue: float64 (n, 2), centres of the slide's patches, drawn where there is no thumbnail.
    :ivar side: side of a patch, level-0 pixels.
    :ivar thumbnail: uint8 (h, w, 3) of the whole slide, or None.
    :ivar extent: (width, height) of the slide at level 0, pixels.
    :ivar rows: one a kind of patch, at most as many as ``COLOURS``.
    :ivar mpp: µm per level-0 pixel, for the scale bar; None where unknown.
    """

    slide: str
    picture: Picture
    place: tuple[float, float]
    tissue: NDArray[np.float64]
    side: float
    thumbnail: Picture | None
    extent: tuple[float, float]
    rows: Sequence[NeighbourRow]
    mpp: float | None = None


def draw_neighbours(anchors: Sequence[Anchor], path: str | Path) -> None:
    """Draw one block an anchor: its slide with the patches that are shown, and the patches themselves, most similar first."""
    height = _HEAD + _BLOCK * len(anchors) + _FOOT
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    blocks = figure.add_gridspec(
        len(anchors),
        3,
        width_ratios=(3.4, 1.5, 6.7),
        left=0.008,
        right=0.995,
        top=1 - (_HEAD + 0.25) / height,
        bottom=_FOOT / height,
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
    figure.text(0.008, 1 - 0.1 / height, textwrap.fill(_INTRO, 150), fontsize=9, color=INK, va="top")
    reading = "\n".join(textwrap.fill(one, 165) for one in _READING)
    figure.text(0.008, 0.1 / height, reading, fontsize=8.5, color=MUTED, va="bottom", linespacing=1.35)
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
    for ink, line in (("white", 3.2), (_ANCHOR, 1.6)):
        axis.scatter(*anchor.place, s=5 * _DOT, marker="o", facecolor="none", edgecolor=ink, linewidths=line)
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
    """Show the part of the slide that has patches, with ticks in mm, or in pixels where the resolution is unknown."""
    low, high = anchor.tissue.min(0) - 2 * anchor.side, anchor.tissue.max(0) + 2 * anchor.side
    axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", anchor="N")
    unit, scale = ("level-0 pixels", 1.0) if anchor.mpp is None else ("mm", anchor.mpp / 1000)
    ends = low[0] * scale, high[0] * scale
    ticks = [tick for tick in MaxNLocator(4).tick_values(*ends) if ends[0] <= tick <= ends[1]]
    axis.set_xticks([tick / scale for tick in ticks], [f"{tick:.4g}" for tick in ticks])
    axis.set_xlabel(f"x on the slide, {unit}", fontsize=7.5, color=MUTED, labelpad=2)
    axis.tick_params(labelsize=7, colors=MUTED, length=3)
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=LINE, linewidth=1.4)


def _draw_anchor(axis: Axes, anchor: Anchor) -> None:
    axis.imshow(anchor.picture, interpolation="bilinear")
    width = "" if anchor.mpp is None else f", {anchor.side * anchor.mpp:.0f} µm wide"
    axis.set_title(f"anchor{width}", fontsize=8.5, color=_ANCHOR, loc="left", pad=4)
    axis.set(anchor="N", xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(edgecolor=_ANCHOR, linewidth=1.4)


def _draw_row(axis: Axes, row: NeighbourRow, most: int, colour: str) -> None:
    axis.set_title(row.name, fontsize=8.5, color=colour, loc="left", pad=4)
    for place, (picture, caption, elsewhere) in enumerate(zip(row.pictures, row.captions, row.elsewhere, strict=True)):
        left = place * _PITCH
        axis.imshow(picture, extent=(left, left + 1, 1, 0), interpolation="bilinear")
        line = (0, (3, 2)) if elsewhere else "solid"
        axis.add_patch(Rectangle((left, 0), 1, 1, fill=False, edgecolor=colour, linewidth=1.5, linestyle=line))
        axis.text(left + 0.5, 1 + _LABEL, caption, fontsize=7.5, color=INK, parse_math=False, ha="center")
    axis.set(xlim=(-0.01, most * _PITCH), ylim=(1.01 + _LABEL, -0.01), aspect="equal", anchor="NW")
    axis.set_axis_off()
