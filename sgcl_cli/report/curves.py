"""curves.png: how a pretraining run went, from its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import store

_TERMS = (("self", "self"), ("spatial", "spatial"), ("inner", "inner"), ("total", "total"))


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that was cut off is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_curves(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw the terms of the loss, the positives and similarities, and the schedule over the epochs.

    :raises ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [record for record in records if "loss" in record]
    epochs = np.array([record["epoch"] for record in steps])
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    for key, name in _TERMS:
        axes[0, 0].plot(epochs, _smooth([record["loss"][key] for record in steps]), label=name)
    axes[0, 0].set(title="Loss, by term", ylabel="nats")
    for key, name in (("positive_similarity", "positives"), ("negative_similarity", "negatives")):
        axes[0, 1].plot(epochs, _smooth([record.get(key) for record in steps]), label=name)
    axes[0, 1].set(title="Similarity in the spatial term", ylabel="mean cosine")
    for key, name in (("spatial_positives", "spatial"), ("propagated_positives", "propagated")):
        axes[1, 0].plot(epochs, _smooth([record.get(key) for record in steps]), label=name)
    axes[1, 0].set(title="Positives of an anchor", ylabel="mean count", xlabel="epoch", yscale="symlog")
    axes[1, 1].plot(epochs, [record["ramp"] for record in steps], label="weight of the spatial term")
    axes[1, 1].plot(
        epochs, np.array([record["lr"] for record in steps]) / steps[0]["lr"], label="learning rate, relative"
    )
    axes[1, 1].set(title="Schedule", xlabel="epoch", ylim=(0, 1.05))
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    with store.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _smooth(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A running mean over about 1 % of the run, so that a trend shows through the noise of single batches."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    width = max(1, len(array) // 100)
    known = np.where(np.isnan(array), 0.0, array)
    weight = np.convolve(~np.isnan(array), np.ones(width), mode="same")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.convolve(known, np.ones(width), mode="same") / weight)
