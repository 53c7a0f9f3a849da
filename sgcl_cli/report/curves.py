"""curves.png: how a pretraining run went, from its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import reading, store
from sgcl_cli.report.drawing import INK, MUTED, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]


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
    """Draw over the epochs: the terms, similarities, positives, the use of the space, the probe, speed and schedule.

    A panel whose numbers were not recorded is left out.

    :raises ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [record for record in records if "loss" in record]
    epochs = [record["summary"] for record in records if isinstance(record.get("summary"), dict)]
    panels = [_terms(steps), *_PANELS]
    panels = [panel for panel in panels if any(_known(steps, epochs, key, source) for key, _, source in panel[2])]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * lines), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, (title, unit, curves, style) in zip(axes.flat, panels, strict=False):
        for number, (key, name, source) in enumerate(curves):
            _plot(axis, steps if source == "step" else epochs, key, name, source=source, colour=colour(number))
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axis.set_ylabel(unit, color=MUTED)
        axis.set(**style)
        axis.set_xlim(0, None)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(axis.lines) > 1:
            axis.legend(frameon=False, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[-1][: len(panels) - columns * (lines - 1)]:
        axis.set_xlabel("epoch", color=MUTED)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


_Curve = tuple[str, str, str]
_Panel = tuple[str, str, tuple[_Curve, ...], dict[str, Any]]


def _terms(steps: Sequence[Record]) -> _Panel:
    """The terms that the steps have, the total last."""
    terms = [name for name in dict.fromkeys(name for step in steps for name in step["loss"]) if name != "total"]
    return "Loss, by term", "nats", tuple((f"loss.{name}", name, "step") for name in (*terms, "total")), {}


_PANELS: tuple[_Panel, ...] = (
    (
        "Similarity in the spatial term",
        "mean cosine",
        (("positive_similarity", "positives", "step"), ("negative_similarity", "negatives", "step")),
        {},
    ),
    (
        "Positives of an anchor",
        "mean count",
        (("spatial_positives", "spatial", "step"), ("propagated_positives", "propagated", "step")),
        {"yscale": "symlog"},
    ),
    (
        "Propagated positives on the own slide",
        "share",
        (("propagated_same_slide", "own slide", "step"),),
        {"ylim": (-0.02, 1.02)},
    ),
    (
        "Spread of a batch (0: collapsed)",
        "1 = everywhere alike",
        (("spread", "spread of v", "step"), ("pair_similarity", "similarity of pairs", "step")),
        {"ylim": (-0.05, 1.1)},
    ),
    (
        "Effective rank of the banks",
        "RankMe",
        (("effective_rank_v", "v", "epoch"), ("effective_rank_h", "h", "epoch")),
        {"ylim": (0, None)},
    ),
    ("Probe: kNN on labels", "balanced accuracy", (("probe.balanced_accuracy", "kNN", "epoch"),), {"ylim": (0, 1.02)}),
    ("Speed", "images per second", (("images_per_second", "images per second", "step"),), {"ylim": (0, None)}),
    ("Waiting for data", "seconds a step", (("data_wait", "waiting", "step"),), {"ylim": (0, None)}),
    (
        "Schedule",
        "relative",
        (("ramp", "weight of the spatial term", "step"), ("lr", "learning rate", "step")),
        {"ylim": (0, 1.05)},
    ),
)


def _plot(axis: Axes, records: Sequence[Record], key: str, name: str, *, source: str, colour: str) -> None:
    values = _values(records, key)
    if not np.isfinite(values).any():
        return
    epoch = _values(records, "epoch")
    if key == "lr":
        values = values / values[0]
    if source == "epoch":
        axis.plot(epoch, values, label=name, color=colour, marker="o", markersize=3.5, linewidth=1.5)
    else:
        axis.plot(epoch, _smooth(values), label=name, color=colour, linewidth=1.4)


def _known(steps: Sequence[Record], epochs: Sequence[Record], key: str, source: str) -> bool:
    return bool(np.isfinite(_values(steps if source == "step" else epochs, key)).any())


def _values(records: Sequence[Record], key: str) -> NDArray[np.float64]:
    """A number of every record, found by its dotted name; NaN where it is absent or null."""

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
