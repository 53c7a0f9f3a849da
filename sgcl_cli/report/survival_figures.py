"""Figures of survival and regression: survival curves of risk groups, predicted against measured values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.report.drawing import ACCENT, LINE, MUTED, DrawnFigure, colour, sheet, short

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SurvivalCurve:
    """The Kaplan-Meier curve of a group: distinct event times (T,), survival from each on with its interval (NaN where
    undefined), and every row's follow-up time (n,), from which the numbers at risk are counted."""

    name: str
    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    followed: Floats


def kaplan_meier(
    title: str, groups: Sequence[SurvivalCurve], *, p: float | None = None, unit: str = "time"
) -> DrawnFigure:
    """Survival curves with their intervals, censored rows as ticks, and the numbers at risk below.

    :param p: p of the log-rank test, where there is one.
    """
    last = max((float(group.followed.max(initial=0)) for group in groups), default=0) or 1.0
    with sheet(title, 5.4, 4.4 + 0.2 * len(groups)) as made:
        axes = made.axes
        for number, group in enumerate(groups):
            time = np.concatenate([[0], group.time, [group.followed.max(initial=0)]])
            held = np.concatenate([[1], group.survival, group.survival[-1:] if len(group.survival) else [1]])
            axes.step(time, held, where="post", color=colour(number), linewidth=1.8, label=short(group.name))
            low, high = (
                np.concatenate([[1], edge, edge[-1:] if len(edge) else [1]]) for edge in (group.low, group.high)
            )
            axes.fill_between(time, low, high, step="post", color=colour(number), alpha=0.14, linewidth=0)
            censored = np.setdiff1d(group.followed, group.time)
            at = held[np.searchsorted(time[:-1], censored, side="right") - 1]
            axes.plot(censored, at, "|", color=colour(number), markersize=5)
        ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= last]
        axes.set(xlim=(-0.02 * last, 1.02 * last), ylim=(-0.02, 1.03), ylabel="share without event", xlabel=unit)
        axes.set_xticks(ticks)
        for number, group in enumerate(groups):
            for tick in ticks:
                place = (tick, -0.24 - 0.06 * number)
                count = str(int((group.followed >= tick).sum()))
                axes.text(*place, count, transform=axes.get_xaxis_transform(), color=colour(number), ha="center")
        axes.text(0, -0.18, "at risk", transform=axes.transAxes, color=MUTED, fontsize=8)
        axes.legend(loc="upper right", title=None if p is None else f"log-rank p {p:.3g}", alignment="left")
    return made.drawn


def measured(title: str, truth: Floats, value: Floats, *, name: str = "measured") -> DrawnFigure:
    """Predicted against measured values; they agree on the dashed line."""
    with sheet(title) as made:
        ends = [float(min(truth.min(), value.min())), float(max(truth.max(), value.max()))]
        made.axes.plot(ends, ends, color=LINE, linewidth=1, linestyle=(0, (4, 3)))
        made.axes.scatter(truth, value, 16, color=ACCENT, alpha=0.65, linewidths=0)
        made.axes.set(xlabel=short(name), ylabel="predicted, out of fold")
    return made.drawn
