"""Did a pretraining learn at all? By epoch its losses, and how far its vectors are from being one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.table import Line, grid

PARTS = ("self", "spatial", "inner")
OF_V = {"spread": "spread of v", "effective_rank_v": "effective rank of v"}
COMPANY = {
    "spatial_positives": "spatial positives an anchor",
    "propagated_positives": "propagated",
    "positive_similarity": "their similarity",
    "negative_similarity": "that of semi-hard negatives",
}


def of_run(run: Path) -> list[dict[str, Any]]:
    """One entry an epoch of a ``sgcl pretrain`` folder: ``epoch``, each part of the loss, and by the names that metrics.jsonl
    gives them what there is of v and of an anchor's company."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {
            "epoch": given["epoch"],
            **{part: given["loss"][part] for part in PARTS},
            **{name: given[name] for name in (*OF_V, *COMPANY) if name in given},
        }
        for line in lines
        if (given := line.get("summary"))
    ]


def markdown(lines: Sequence[Line]) -> str:
    """The last epoch of every pretraining; empty where there is none."""
    body = []
    for line in lines:
        if line.result is not None and line.result.get("learning"):
            last = line.result["learning"][-1]
            numbers = [f"{last[name]:.2f}" if last.get(name) else "-" for name in (*PARTS, *OF_V, *COMPANY)]
            body.append([line.job.row.name, str(line.job.seed), *numbers])
    return grid(["pretraining", "seed", *PARTS, *OF_V.values(), *COMPANY.values()], body) if body else ""


def draw(lines: Sequence[Line], patches: int, out: Path) -> None:
    """learning.png: the self part and the spread of v by epoch, a line a pretraining.

    Dashed: ln K, where nothing is told apart; ``patches`` is N, K is N - 1 below 65,537 patches.
    """
    import matplotlib.pyplot as plt

    drawn = [line for line in lines if line.result is not None and line.result.get("learning") and not line.job.seed]
    if not drawn:
        return
    figure, (loss, spread) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for line in drawn:
        assert line.result is not None
        epochs = [entry["epoch"] for entry in line.result["learning"]]
        for axis, name in ((loss, "self"), (spread, "spread")):
            axis.plot(epochs, [entry[name] for entry in line.result["learning"]], ".-", label=line.job.row.name)
    loss.axhline(math.log(min(patches - 1, 65_536)), color="#7f7f7f", linestyle="--", label="ln K")
    loss.set_title("self loss")
    spread.set_title("spread of v")
    spread.set_ylim(0, 1)
    for axis in (loss, spread):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    loss.legend(fontsize="small")
    figure.savefig(out / "learning.png", dpi=130)
    plt.close(figure)
