"""views.png: what the model sees of a few patches."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.report.figures import ACCENT, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = NDArray[np.uint8]
_CELL = 1.25  # inches


@dataclass(frozen=True)
class Seen:
    """One patch uint8 (H, W, 3), its global views, and its four corner views row by row, all uint8 (h, w, 3)."""

    name: str
    patch: Picture
    views: Sequence[Picture]
    corners: Sequence[Picture]


def draw_views(rows: Sequence[Seen], path: str | Path, *, note: str) -> None:
    """Draw one row a patch: the patch with its quarters, its global views, its corner views.

    :param rows: the same number of views and of corners each.
    :param note: one line under the picture: how strong the views are.
    :raises ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = rows[0]
    titles = [
        "patch",
        *(f"view {n + 1}" for n in range(len(first.views))),
        *(f"corner {n + 1}" for n in range(len(first.corners))),
    ]
    width, height = _CELL * len(titles), _CELL * len(rows)
    figure = Figure(figsize=(width, height + 0.75), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    figure.subplots_adjust(0.005, 0.43 / (height + 0.75), 0.995, 1 - 0.3 / (height + 0.75), 0.04, 0.04)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, [row.patch, *row.views, *row.corners], strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        _name(line[0], row)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8.5, color=INK, pad=4)
    note = textwrap.fill(note, int(16 * width))
    figure.text(0.005, 0.06 / (height + 0.75), note, fontsize=7.5, color=MUTED, parse_math=False)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _name(axis: Axes, row: Seen) -> None:
    height, width = row.patch.shape[:2]
    if row.corners:
        axis.axhline(height / 2 - 0.5, color=ACCENT, linewidth=0.8)
        axis.axvline(width / 2 - 0.5, color=ACCENT, linewidth=0.8)
    axis.text(
        0.03,
        0.03,
        row.name,
        transform=axis.transAxes,
        fontsize=6,
        color="white",
        parse_math=False,
        bbox={"facecolor": INK, "edgecolor": "none", "pad": 1.2, "alpha": 0.7},
    )
