"""Is an ablation other than sgcl? Paired by patient on the development data, Holm over all comparisons of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.study.table import PROBES, Line
from sgcl_cli.artefacts import store
from sgcl_cli.probe.comparison import Entry, compare, holm
from sgcl_cli.probe.metrics import Predictions

REFERENCE = "sgcl"


@dataclass(frozen=True)
class Paired:
    """``row`` minus the reference, first seeds; ``adjusted`` after Holm. None with the reason where there is no interval."""

    row: str
    task: str
    probe: str
    value: float | None
    low: float | None
    high: float | None
    adjusted: float | None
    reason: str


def against_reference(lines: Sequence[Line], tasks: Sequence[str], folder: Path) -> list[Paired]:
    """Every ablation that was run against sgcl, on each of ``tasks`` and by each probe.

    :param folder: of the study, under which the results name their predictions.
    """
    first = [line for line in lines if line.job.seed == 0 and line.result is not None]
    reference = next((line for line in first if line.job.row.name == REFERENCE), None)
    ablations = [line for line in first if line.job.row.group == "ablation"]
    if reference is None:
        return []
    found, p = [], []
    for line in ablations:
        for task in tasks:
            for probe in PROBES:
                pair = [_entry(one, task, probe, folder) for one in (reference, line)]
                assert line.result is not None
                (difference,) = compare(pair, line.result["scores"][task]["metric"])
                values = (difference.value, difference.low, difference.high, None, difference.reason)
                found.append(Paired(line.job.row.name, task, probe, *values))
                p.append(difference.p)
    adjusted = iter(holm([value for value in p if value is not None]))
    return [
        one if value is None else replace(one, adjusted=next(adjusted)) for one, value in zip(found, p, strict=True)
    ]


def markdown(pairs: Sequence[Paired]) -> str:
    """One line a comparison."""
    rows = ["| row minus sgcl | task | probe | difference | p after Holm |", "| --- | --- | --- | --- | --- |"]
    for pair in pairs:
        value = "undefined" if pair.value is None else f"{pair.value:+.3f}"
        if pair.low is not None and pair.high is not None:
            value += f" [{pair.low:+.3f}, {pair.high:+.3f}]"
        p = pair.reason if pair.adjusted is None else f"{pair.adjusted:.3f}"
        rows.append(f"| {pair.row} | {pair.task} | {PROBES[pair.probe]} | {value} | {p} |")
    return "\n".join(rows)


def _entry(line: Line, task: str, probe: str, folder: Path) -> Entry:
    assert line.result is not None
    path = folder / line.result["scores"][task]["predictions"]
    rows = [
        row for row in store.read_table(path, ["slide_id", "row", "label", "fold", "model"]) if row["model"] == probe
    ]
    classes = tuple(name.removeprefix("p_") for name in rows[0] if name.startswith("p_"))
    truth = np.array([classes.index(row["label"].lower()) for row in rows], np.int64)
    reported = Predictions(
        truth,
        np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows]),
        np.array([row["fold"] for row in rows]),
        np.array([row["patient_id"] for row in rows]),
        classes,
    )
    return Entry(line.job.row.name, np.array([f"{row['slide_id']}/{row['row']}" for row in rows]), truth, reported)
