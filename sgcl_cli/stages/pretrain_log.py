"""metrics.jsonl of a pretraining run: what a step and an epoch say, kept in step with the checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgcl_cli.artefacts import store
from sgcl_cli.engine.ranks import Ranks, joint_means
from sgcl_cli.method.sgcl import Diagnostics


@dataclass
class Tally:
    """Means over the steps of an epoch."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, losses: dict[str, float]) -> None:
        """Count the terms of one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        """The mean of each term."""
        return {name: value / max(1, self.steps) for name, value in self.sums.items()}


class MetricsLog:
    """The lines of metrics.jsonl. They wait in memory until ``flush``, which comes before the checkpoint that they lead to.

    :param writes: whether anything is kept at all.
    """

    def __init__(self, out: Path, *, writes: bool) -> None:
        self.path = out / "metrics.jsonl"
        self._writes = writes
        self._lines: list[str] = []

    def write(self, entry: dict[str, Any]) -> None:
        """Add a line; it has "step", the steps done when it was written."""
        if self._writes:
            self._lines.append(json.dumps(entry, allow_nan=False))

    def flush(self) -> None:
        """Append the waiting lines to the file."""
        if not self._writes:
            return
        with store.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in self._lines)
        self._lines.clear()

    def trim(self, step: int) -> None:
        """Drop the lines that an interrupted run wrote after its checkpoint; their steps come again."""
        if not self._writes or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] > step:
                    break
            except json.JSONDecodeError:
                break
            kept.append(line + "\n")
        store.write_text(self.path, "".join(kept))


def watched(diagnostics: Diagnostics | None, ranks: Ranks) -> dict[str, float | None]:
    """Means over the batch of what a person watches; null where there is nothing to average."""
    if diagnostics is None:
        return {}
    means = {
        "spatial_positives": diagnostics.spatial.mean(),
        "propagated_positives": diagnostics.propagated.mean(),
        "positive_similarity": diagnostics.positive_similarity,
        "negative_similarity": diagnostics.negative_similarity,
        "propagated_same_slide": diagnostics.same_slide,
    }
    values = joint_means(torch.stack([value.float() for value in means.values()]), ranks)
    return {name: value if math.isfinite(value) else None for name, value in zip(means, values, strict=True)}
