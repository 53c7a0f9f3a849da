"""Figures of predicted classes: ROC, precision and recall, confusion, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sgcl_cli.report.drawing import ACCENT, INK, LINE, PALETTE, DrawnFigure, colour, dashes, sheet, short

Floats = NDArray[np.float64]
_MOST_NAMED_CELLS = 20


@dataclass(frozen=True)
class Curve:
    """One ROC curve: its label, rates in [0, 1], and its area where defined."""

    name: str
    false_rate: Floats
    true_rate: Floats
    area: float | None = None


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision against recall of one class, both in [0, 1], with the average precision and the prevalence of the class."""

    name: str
    recall: Floats
    precision: Floats
    average: float
    prevalence: float


@dataclass(frozen=True)
class Bins:
    """A reliability curve: bin edges (b + 1,); rows, mean predicted probability and observed share (b,), NaN where empty."""

    edges: Floats
    count: NDArray[np.int64]
    stated: Floats
    observed: Floats


def mean_curve(name: str, curves: Sequence[Curve], area: float | None = None) -> Curve:
    """The vertical mean of the ROC curves of folds."""
    grid = np.linspace(0, 1, 201)
    mean = np.mean([np.interp(grid, curve.false_rate, curve.true_rate) for curve in curves], axis=0)
    return Curve(name, np.array([0.0, *grid]), np.array([0.0, *mean]), area)


def roc(title: str, curves: Sequence[Curve], *, folds: bool) -> DrawnFigure:
    """ROC curves in one square panel.

    :param folds: the curves are folds of one model: drawn thin, with their vertical mean on top; otherwise each curve
        is a class against the rest and has its own colour.
    """
    with sheet(title) as made:
        axes = made.axes
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (4, 3)))
        if folds:
            _fold_curves(axes, curves)
        else:
            for number, curve in enumerate(curves):
                axes.plot(
                    curve.false_rate,
                    curve.true_rate,
                    color=colour(number),
                    linestyle=dashes(number),
                    linewidth=1.8,
                    label=_with_area(curve),
                )
        _unit_square(axes, "false positive rate", "true positive rate")
        axes.legend(loc="lower right")
    return made.drawn


def precision_recall(title: str, curves: Sequence[PrecisionRecall]) -> DrawnFigure:
    """Precision against recall, one curve a class; dotted lines are the precision of guessing."""
    with sheet(title) as made:
        for number, curve in enumerate(curves):
            made.axes.axhline(curve.prevalence, color=colour(number), linewidth=0.8, linestyle=(0, (1, 3)))
            made.axes.plot(
                curve.recall,
                curve.precision,
                color=colour(number),
                linewidth=1.8,
                linestyle=dashes(number),
                drawstyle="steps-post",
                label=f"{curve.average:.3f}   {short(curve.name)}",
            )
        _unit_square(made.axes, "recall (sensitivity)", "precision (positive predictive value)")
        made.axes.legend(loc="best")
    return made.drawn


def confusion(title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> DrawnFigure:
    """Confusion matrix (K, K) with true classes in rows, shaded by share of the row, with counts for up to 20 classes."""
    number = len(classes)
    side = min(7.0, max(3.2, 1.6 + 0.62 * number))
    with sheet(title, side + 0.6, side) as made:
        axes = made.axes
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ramp = matplotlib.colors.LinearSegmentedColormap.from_list("calm", ["#f6f8f9", "#8fc7c1", ACCENT])
        axes.imshow(share, cmap=ramp, vmin=0, vmax=1)
        names = [short(name) for name in classes]
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
    return made.drawn


def reliability(title: str, bins: Bins) -> DrawnFigure:
    """Observed share against predicted probability; the areas of dots and the bars below show the number of rows in a bin."""
    filled = bins.count > 0
    share = bins.count / max(1, bins.count.sum())
    with sheet(title) as made:
        axes = made.axes
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (4, 3)))
        centres, width = (bins.edges[1:] + bins.edges[:-1]) / 2, np.diff(bins.edges)
        axes.bar(centres, 0.25 * share / max(share.max(), 1e-12), width * 0.9, color=LINE, zorder=1)
        axes.vlines(bins.stated[filled], bins.stated[filled], bins.observed[filled], color=PALETTE[1], linewidth=1.2)
        axes.plot(bins.stated[filled], bins.observed[filled], color=ACCENT, linewidth=1.2, zorder=3)
        axes.scatter(bins.stated[filled], bins.observed[filled], 12 + 240 * share[filled], color=ACCENT, zorder=4)
        _unit_square(axes, "predicted probability", "observed share")
    return made.drawn


def _fold_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    lone = len(curves) == 1
    for number, curve in enumerate(curves):
        axes.plot(
            curve.false_rate,
            curve.true_rate,
            color=ACCENT if lone else PALETTE[1 + number % (len(PALETTE) - 1)],
            linewidth=2.2 if lone else 1.0,
            alpha=1.0 if lone else 0.55,
            label=_with_area(curve),
        )
    if not lone:
        mean = mean_curve("mean of the folds", curves)
        axes.plot(mean.false_rate, mean.true_rate, color=ACCENT, linewidth=2.4, label=mean.name)


def _unit_square(axes: Axes, across: str, up: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=across, ylabel=up)


def _with_area(curve: Curve) -> str:
    area = "" if curve.area is None else f"{curve.area:.3f}   "
    return area + short(curve.name)
