"""views.png: the augmented views of a few patches."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.report.drawing import ACCENT, INK, MUTED

Picture = NDArray[np.uint8]
_CELL, _HEAD, _FOOT = 1.25, 0.3, 0.4  # inches


@dataclass(frozen=True)
class ShownViews:
    """One patch uint8 (H, W, 3), its global views, and its four corner views row by row, all uint8 (h, w, 3)."""

    name: str
    patch: Picture
    views: Sequence[Picture]
    corners: Sequence[Picture]


def draw_views(rows: Sequence[ShownViews], path: str | Path, *, note: str) -> None:
    """Draw one row a patch: the patch with its quarters, its global views, its corner views.

    :param rows: the same number of views and of corners each.
    :param note: text under the picture: the strengths of the augmentations."""
    first = rows[0]
    titles = [f"view {n + 1}" for n in range(len(first.views))] + [f"corner {n + 1}" for n in range(len(first.corners))]
    columns = ["patch", *titles]
    width, height = _CELL * len(columns), _CELL * len(rows) + _HEAD + _FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.0, _FOOT / height, 1.0, 1 - (_HEAD + _FOOT) / height))
    for line, row in enumerate(rows):
        for column, picture in enumerate([row.patch, *row.views, *row.corners]):
            axis.imshow(
                picture, extent=(column + 0.02, column + 0.98, line + 0.98, line + 0.02), interpolation="nearest"
            )
        if row.corners:
            axis.plot(
                [0.02, 0.98], [line + 0.5] * 2, [0.5] * 2, [line + 0.02, line + 0.98], color=ACCENT, linewidth=0.8
            )
        box = {"facecolor": INK, "edgecolor": "none", "pad": 1.2, "alpha": 0.7}
        axis.text(0.05, line + 0.93, row.name, fontsize=6, color="white", parse_math=False, bbox=box)
    for column, title in enumerate(columns):
        axis.text(column + 0.5, -0.04, title, fontsize=8.5, color=INK, ha="center")
    axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axis.set_axis_off()
    figure.text(0.005, 0.06 / height, textwrap.fill(note, int(15 * width)), fontsize=7.5, color=MUTED, parse_math=False)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
