"""curves.png: the course of a pretraining run, from its metrics.jsonl."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from numpy.typing import NDArray

from sgcl_cli.artefacts import reading, store
from sgcl_cli.report.drawing import INK, MUTED, colour

Record = Mapping[str, Any]
_PANEL_HEIGHT, _FOOT = 3.3, 0.4  # inches
_SENTENCE = 62  # letters a line
_FOOTNOTE = (
    "Lines are running means over 1 % of the run; dots are one value an epoch. All numbers are in metrics.jsonl."
)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that was cut off is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = reading.parse_json(line)
        except ValueError:
            break
        if isinstance(record, dict):
            records.append(record)
    return records


def draw_curves(records: Sequence[Record], path: str | Path) -> None:
    """Draw curves.png: one panel a quantity over the epochs, each with its unit and a sentence on what good looks like.

    Panels of numbers that were not recorded are left out.
    """
    steps = [record for record in records if "loss" in record]
    epochs = [record["summary"] for record in records if isinstance(record.get("summary"), dict)]
    panels = [
        panel
        for panel in (_terms(steps), *_PANELS)
        if any(_known(steps, epochs, curve.key, curve.source) for curve in panel.curves)
    ]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    height = _PANEL_HEIGHT * lines + _FOOT
    figure = Figure(figsize=(4.4 * columns, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for number, curve in enumerate(panel.curves):
            _plot(axis, steps if curve.source == "step" else epochs, curve, colour(number))
        _finish(axis, panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel(textwrap.fill(_FOOTNOTE, 62 * columns), x=0.01, ha="left", fontsize=8, color=MUTED)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _finish(axis: Axes, panel: _Panel) -> None:
    """Title, sentence, units, ticks and legend of a panel."""
    axis.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=31)
    sentence = textwrap.fill(panel.sentence, _SENTENCE)
    axis.annotate(
        sentence,
        (0, 1),
        (0, 28),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        va="top",
    )
    axis.set_xlabel("epoch", color=MUTED)
    axis.set_ylabel(panel.unit, color=MUTED)
    axis.set(**panel.style)
    if panel.style.get("yscale") == "symlog":
        axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
    axis.set_xlim(0, None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.lines) > 1:
        axis.legend(fontsize=8, framealpha=0.6, edgecolor="none")


@dataclass(frozen=True)
class _Curve:
    """A line: the dotted name of its number, its label, and whether there is a number a step or an epoch."""

    key: str
    label: str
    source: str = "step"


@dataclass(frozen=True)
class _Panel:
    """A panel: its title, the unit of its numbers, a sentence on how to read it, its lines, and settings of its axes."""

    title: str
    unit: str
    sentence: str
    curves: tuple[_Curve, ...]
    style: Mapping[str, Any] = field(default_factory=dict)


def _terms(steps: Sequence[Record]) -> _Panel:
    """The terms that the steps have, the total last."""
    terms = [name for name in dict.fromkeys(name for step in steps for name in step["loss"]) if name != "total"]
    curves = tuple(_Curve(f"loss.{name}", name) for name in (*terms, "total"))
    return _Panel("Loss by term", "loss, nats", "Good: falls, then levels off.", curves)


_PANELS: tuple[_Panel, ...] = (
    _Panel(
        "Similarity in the spatial term",
        "mean cosine with the anchor",
        "Good: positives stay above negatives, and the gap widens.",
        (_Curve("positive_similarity", "positives"), _Curve("negative_similarity", "negatives")),
    ),
    _Panel(
        "Positives of an anchor",
        "patches, mean of a batch",
        "Spatial: neighbours on the slide. Propagated: of the same cluster; they begin with the first clustering.",
        (_Curve("spatial_positives", "spatial"), _Curve("propagated_positives", "propagated")),
        {"yscale": "symlog"},
    ),
    _Panel(
        "Propagated positives on the anchor's own slide",
        "share of propagated positives",
        "Good: well below 1. Near 1 the clusters follow the stain of slides, not the tissue.",
        (_Curve("propagated_same_slide", "own slide"),),
        {"ylim": (-0.02, 1.02)},
    ),
    _Panel(
        "Spread of the embeddings",
        "spread; mean cosine of pairs",
        "Good: spread rises early and stays. Spread 0 and cosine 1: collapsed, all embeddings are the same.",
        (_Curve("spread", "spread of v"), _Curve("pair_similarity", "cosine of pairs")),
        {"ylim": (-0.05, 1.1)},
    ),
    _Panel(
        "Effective rank of the banks",
        "effective dimensions (RankMe)",
        "Good: rises or levels off. Near 1: the embeddings vary along one direction only.",
        (_Curve("effective_rank_v", "v", "epoch"), _Curve("effective_rank_h", "h", "epoch")),
        {"ylim": (0, None)},
    ),
    _Panel(
        "Probe: nearest neighbours on labels",
        "balanced accuracy",
        "Good: rises. 1 divided by the number of classes is chance.",
        (_Curve("probe.balanced_accuracy", "kNN", "epoch"),),
        {"ylim": (0, 1.02)},
    ),
    _Panel(
        "Speed",
        "images per second",
        "Good: steady. Drops mean that something else uses the machine.",
        (_Curve("images_per_second", "images per second"),),
        {"ylim": (0, None)},
    ),
    _Panel(
        "Waiting for data",
        "seconds a step",
        "Good: near 0. Otherwise give more --workers.",
        (_Curve("data_wait", "waiting"),),
        {"ylim": (0, None)},
    ),
    _Panel(
        "Schedule",
        "share of the highest value",
        "The settings over time, no result: weight of the spatial term and learning rate.",
        (_Curve("ramp", "weight of the spatial term"), _Curve("lr", "learning rate")),
        {"ylim": (0, 1.05)},
    ),
)


def _plot(axis: Axes, records: Sequence[Record], curve: _Curve, colour: str) -> None:
    values = _values(records, curve.key)
    if not np.isfinite(values).any():
        return
    epoch = _values(records, "epoch")
    if curve.key == "lr":
        values = values / np.nanmax(values)
    if curve.source == "epoch":
        axis.plot(epoch, values, label=curve.label, color=colour, marker="o", markersize=3.5, linewidth=1.5)
    else:
        axis.plot(epoch, _smooth(values), label=curve.label, color=colour, linewidth=1.4)


def _known(steps: Sequence[Record], epochs: Sequence[Record], key: str, source: str) -> bool:
    return bool(np.isfinite(_values(steps if source == "step" else epochs, key)).any())


def _values(records: Sequence[Record], key: str) -> NDArray[np.float64]:
    """The number with a dotted name in every record, float64 (n,); NaN where it is absent or null."""

    def find(record: Record) -> float:
        value: Any = record
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else float("nan")

    return np.array([find(record) for record in records], dtype=np.float64)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A running mean over about 1 % of the run, so that a trend shows through the noise of single batches."""
    window = np.ones(max(1, len(values) // 100))
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.convolve(np.where(known, values, 0.0), window, mode="same")
        return np.asarray(total / np.convolve(known.astype(np.float64), window, mode="same"))
