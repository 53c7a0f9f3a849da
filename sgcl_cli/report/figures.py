"""The figures of a report as PNG bytes. Same numbers, same bytes: no dates, no global state of matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_MOST_NAMED_CELLS = 20


@dataclass(frozen=True)
class Curve:
    """One ROC curve: rates in [0, 1], what it is of, and its area where defined."""

    name: str
    false_rate: NDArray[np.float64]
    true_rate: NDArray[np.float64]
    area: float | None = None


def roc(title: str, curves: Sequence[Curve], *, folds: bool) -> bytes:
    """ROC curves in one square panel.

    :param folds: the curves are folds of one model: drawn thin, with their vertical mean on top; otherwise each curve
        is a class against the rest and has its own colour.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(4.4, 4.4)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (4, 3)))
        if folds:
            _fold_curves(axes, curves)
        else:
            for number, curve in enumerate(curves):
                colour = PALETTE[number % len(PALETTE)]
                axes.plot(curve.false_rate, curve.true_rate, color=colour, linewidth=1.6, label=_named(curve))
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title(_short(title, 48), loc="left", fontsize=10, fontweight="bold")
        axes.legend(loc="lower right")
        return _png(figure)


def _fold_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    lone = len(curves) == 1
    for number, curve in enumerate(curves):
        colour = ACCENT if lone else PALETTE[1 + number % (len(PALETTE) - 1)]
        axes.plot(
            curve.false_rate,
            curve.true_rate,
            color=colour,
            linewidth=2.2 if lone else 1.0,
            alpha=1.0 if lone else 0.55,
            label=_named(curve),
        )
    if not lone:
        grid = np.linspace(0, 1, 201)
        mean = np.mean([np.interp(grid, curve.false_rate, curve.true_rate) for curve in curves], axis=0)
        axes.plot([0, *grid], [0, *mean], color=ACCENT, linewidth=2.4, label="mean of the folds")


def confusion(title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Confusion matrix (K, K), rows the truth: shaded by share of the row, with counts where there is room."""
    number = len(classes)
    side = min(7.0, max(3.2, 1.6 + 0.62 * number))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(side + 0.6, side)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ramp = matplotlib.colors.LinearSegmentedColormap.from_list("calm", ["#f6f8f9", "#8fc7c1", ACCENT])
        axes.imshow(share, cmap=ramp, vmin=0, vmax=1)
        names = [_short(name) for name in classes]
        axes.set_xticks(
            range(number), names, rotation=0 if number <= 3 else 40, ha="center" if number <= 3 else "right"
        )
        axes.set_yticks(range(number), names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if number <= _MOST_NAMED_CELLS:
            roomy = number <= 6
            for row, column in np.ndindex(number, number):
                part = share[row, column]
                text = f"{counts[row, column]}" + (f"\n{100 * part:.0f} %" if roomy else "")
                ink = "white" if part > 0.6 else INK
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9 if roomy else 7)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(_short(title, 48), loc="left", fontsize=10, fontweight="bold")
        return _png(figure)


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _named(curve: Curve) -> str:
    area = "" if curve.area is None else f"{curve.area:.3f}   "
    return area + _short(curve.name)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # names in scripts that the font lacks
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
