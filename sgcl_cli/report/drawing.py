"""The common style of all figures, and their files. Equal numbers give equal bytes: no dates, no global state of matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, LINE, ACCENT = "#1f2933", "#66727f", "#d5dbe1", "#0f766e"
# Okabe and Ito (2008), "Color Universal Design": https://jfly.uni-koeln.de/color/. Yellow, the faintest on white, is last.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))  # of the first eight series, of the next eight and of the rest
MARKERS = "os^Dv*PX"
SIDE = 4.4  # inches of a square panel
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8,
    "svg.hashsalt": "sgcl",
}


@dataclass(frozen=True)
class DrawnFigure:
    """A figure as a PNG file and as an SVG file."""

    png: bytes
    svg: bytes


@dataclass
class Sheet:
    """A figure that is being drawn: its axes, and its files after the ``with`` block of ``sheet``."""

    figure: Figure
    axes: Axes
    _drawn: list[DrawnFigure] = field(default_factory=list)

    @property
    def drawn(self) -> DrawnFigure:
        """The finished figure."""
        return self._drawn[0]


@contextmanager
def sheet(title: str, width: float = SIDE, height: float = SIDE) -> Iterator[Sheet]:
    """One panel in the common style under a bold title, drawn when the block ends; ``width`` and ``height`` in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        made = Sheet(figure, figure.add_subplot())
        made.axes.set_title(short(title, 48), loc="left", fontsize=10, fontweight="bold")
        yield made
        made._drawn.append(_files(figure))


def short(name: str, most: int = 24) -> str:
    """A name, cut to ``most`` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def colour(number: int) -> str:
    """The colour of a series; after the eighth colours repeat, in another ``dashes``."""
    return PALETTE[number % len(PALETTE)]


def dashes(number: int) -> Any:
    """The line style of a series, in matplotlib's notation."""
    return DASHES[min(number // len(PALETTE), len(DASHES) - 1)]


def _files(figure: Figure) -> DrawnFigure:
    png, svg = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # names in scripts that the font lacks
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return DrawnFigure(png.getvalue(), svg.getvalue())
