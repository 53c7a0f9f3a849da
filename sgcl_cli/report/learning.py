"""Figures of label efficiency and of slides in the plane of their principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.report.drawing import INK, MARKERS, PALETTE, SIDE, DrawnFigure, colour, sheet, short

Floats = NDArray[np.float64]
_MOST_NAMED = 12


def label_efficiency(title: str, curves: Mapping[str, Mapping[float, Sequence[float]]], metric: str) -> DrawnFigure:
    """A metric against the share of patients with labels; dots are repeats, lines their means.

    :param curves: of each model, by share (0 to 1), the values of its repeats.
    """
    shares = sorted({share for curve in curves.values() for share in curve})
    with sheet(title, 5.0, 3.8) as made:
        axes = made.axes
        for number, (name, curve) in enumerate(curves.items()):
            known = sorted(share for share, values in curve.items() if len(values))
            means = [float(np.mean(curve[share])) for share in known]
            axes.plot(
                known, means, color=colour(number), linewidth=1.8, marker="o", markersize=4, label=short(name, 40)
            )
            for share in known:
                axes.scatter([share] * len(curve[share]), curve[share], 10, color=colour(number), alpha=0.35)
        axes.set(xscale="log", xlabel="share of the fitted patients with labels", ylabel=metric)
        axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
        axes.set_xticks([], minor=True)
        axes.legend(loc="best")
    return made.drawn


def slide_map(title: str, places: Floats, group: Sequence[str], explained: tuple[float, float]) -> DrawnFigure:
    """Slides in the plane of their first two principal components (n, 2), coloured by group.

    :param explained: shares of the variance that the two components hold.
    """
    names, number = np.unique(np.asarray(group, dtype=np.str_), return_inverse=True)
    with sheet(title, SIDE + 1.6, SIDE) as made:
        for one, name in enumerate(names.tolist()):
            mine = places[number == one]
            made.axes.scatter(
                mine[:, 0],
                mine[:, 1],
                24,
                color=colour(one),
                marker=MARKERS[one // len(PALETTE) % len(MARKERS)],
                alpha=0.8,
                edgecolor=INK,
                linewidths=0.3,
                label=short(name, 18) if one < _MOST_NAMED else None,
            )
        made.axes.set(
            xlabel=f"component 1 ({100 * explained[0]:.0f} % of the variance)",
            ylabel=f"component 2 ({100 * explained[1]:.0f} %)",
        )
        made.axes.tick_params(labelbottom=False, labelleft=False, length=0)
        more = f"and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else None
        made.figure.legend(*made.axes.get_legend_handles_labels(), loc="outside right upper", title=more)
    return made.drawn
