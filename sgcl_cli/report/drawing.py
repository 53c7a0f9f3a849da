"""How every figure looks and how it becomes files. Same numbers, same bytes: no dates, no global state of matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, ACCENT = "#1f2933", "#66727f", "#d5dbe1", "#0f766e"
PALETTE = ("#0f766e", "#b45309", "#4f46e5", "#be185d", "#4d7c0f", "#0369a1", "#7c2d12", "#6d28d9", "#475569")
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
    """A figure in the making: its axes, and its files once the ``with`` block of ``sheet`` is left."""

    figure: Figure
    axes: Axes
    _drawn: list[DrawnFigure] = field(default_factory=list)

    @property
    def drawn(self) -> DrawnFigure:
        """The finished figure."""
        return self._drawn[0]


@contextmanager
def sheet(title: str, width: float = SIDE, height: float = SIDE) -> Iterator[Sheet]:
    """One panel in the common style with a bold title, inches; drawn when the block is left."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        made = Sheet(figure, figure.add_subplot())
        made.axes.set_title(short(title, 48), loc="left", fontsize=10, fontweight="bold")
        yield made
        made._drawn.append(_files(figure))


def short(name: str, most: int = 24) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def colour(number: int) -> str:
    """The colour of a series; colours come again after the ninth."""
    return PALETTE[number % len(PALETTE)]


def _files(figure: Figure) -> DrawnFigure:
    png, svg = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # names in scripts that the font lacks
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return DrawnFigure(png.getvalue(), svg.getvalue())
