"""Progress of pretraining: losses and spread of the vectors by epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.table import Line, grid
from sgcl_cli.artefacts import store

PARTS = ("self", "spatial", "inner")
OF_V = {"spread": "spread of v", "effective_rank_v": "effective rank of v"}
OF_ANCHORS = {
    "spatial_positives": "spatial positives an anchor",
    "propagated_positives": "propagated",
    "positive_similarity": "their similarity",
    "negative_similarity": "that of semi-hard negatives",
}


def of_run(run: Path) -> list[dict[str, Any]]:
    """One entry per epoch of a ``sgcl pretrain`` folder: ``epoch``, each part of the loss, and the statistics in metrics.jsonl of
    v and of the positives and negatives of an anchor.

    ``chance``: the self part of equal embeddings, ln(1 + K) with K negatives.
    """
    objective = store.read_json(run / "run.json")["result"]["objective"]
    chance = math.log(1 + objective["queue" if objective["base"] == "moco" else "uniform_negatives"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {
            "epoch": given["epoch"],
            "chance": chance,
            **{part: given["loss"][part] for part in PARTS},
            **{name: given[name] for name in (*OF_V, *OF_ANCHORS) if name in given},
        }
        for line in lines
        if (given := line.get("summary"))
    ]


def markdown(lines: Sequence[Line]) -> str:
    """A table of the last epoch of every pretraining; empty without pretraining."""
    body = []
    for line in lines:
        if line.result is not None and line.result.get("learning"):
            last = line.result["learning"][-1]
            numbers = [
                f"{last[name]:.2f}" if last.get(name) else "-" for name in ("chance", *PARTS, *OF_V, *OF_ANCHORS)
            ]
            body.append([line.job.row.name, str(line.job.seed), *numbers])
    return (
        grid(["pretraining", "seed", "ln(1 + K)", *PARTS, *OF_V.values(), *OF_ANCHORS.values()], body) if body else ""
    )


def draw(lines: Sequence[Line], out: Path) -> None:
    """Draw learning.png: self part minus chance, and the spread of v, by epoch; one line per pretraining."""
    import matplotlib.pyplot as plt

    drawn = [line for line in lines if line.result is not None and line.result.get("learning") and not line.job.seed]
    if not drawn:
        return
    figure, (loss, spread) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    for line in drawn:
        assert line.result is not None
        epochs = [entry["epoch"] for entry in line.result["learning"]]
        below = [entry["self"] - entry["chance"] for entry in line.result["learning"]]
        style = {"linestyle": "--" if line.job.row.group == "ablation" else "-", "label": line.job.row.name}
        loss.plot(epochs, below, marker=".", **style)
        spread.plot(epochs, [entry["spread"] for entry in line.result["learning"]], marker=".", **style)
    loss.axhline(0, color="#7f7f7f", linestyle=":", label="chance")
    loss.set_title("self loss minus ln(1 + K)")
    spread.set_title("spread of v")
    spread.set_ylim(0, 1)
    for axis in (loss, spread):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(out / "learning.png", dpi=130)
    plt.close(figure)
