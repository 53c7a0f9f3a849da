"""A forest plot: values with their intervals, one below the other, against chance or no difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgcl_cli.report.drawing import ACCENT, LINE, MUTED, DrawnFigure, sheet, short

_ROW = 0.34  # inches
_TALLEST = 12.0


@dataclass(frozen=True)
class ForestRow:
    """A value with its label, and its interval where there is one; ``significant``: the interval excludes chance."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    significant: bool = False


def forest(title: str, rows: Sequence[ForestRow], axis: str, *, middle: float | None = 0.0) -> DrawnFigure:
    """Dots with bars, the first row at the top; grey where the interval includes chance, hollow without an interval.

    :param middle: the value of chance or no difference, a line in the middle of the axis; None: no line.
    """
    height = min(_TALLEST, 1.3 + _ROW * len(rows))
    with sheet(title, 6.4, height) as made:
        axes = made.axes
        for place, row in enumerate(rows):
            colour = ACCENT if row.significant else MUTED
            if row.low is not None and row.high is not None:
                axes.plot(
                    [row.low, row.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=2
                )
            inside = colour if row.low is not None else "white"
            axes.plot(row.value, place, "o", color=colour, markerfacecolor=inside, markersize=6.5, zorder=3)
        axes.set_yticks(range(len(rows)), [short(row.name, 44) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if middle is not None:
            axes.axvline(middle, color=LINE, linewidth=1.2, zorder=1)
            ends = [x - middle for row in rows for x in (row.value, row.low, row.high) if x is not None]
            reach = 1.08 * (max(map(abs, ends), default=0) or 0.1)
            axes.set_xlim(middle - reach, middle + reach)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(axis)
    return made.drawn
