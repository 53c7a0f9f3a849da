"""Is a row other than the one that it adds to? Paired by patient, Holm over all comparisons of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.study.table import PROBES, Line
from sgcl_cli.artefacts import store
from sgcl_cli.probe.scores.comparison import Entry, compare, holm
from sgcl_cli.probe.scores.metrics import Predictions


@dataclass(frozen=True)
class Paired:
    """``row`` minus ``against``, first seeds; ``adjusted`` after Holm. None with the reason where there is no interval."""

    row: str
    against: str
    task: str
    probe: str
    value: float | None
    low: float | None
    high: float | None
    adjusted: float | None
    reason: str


def differences(lines: Sequence[Line], tasks: Mapping[str, bool], folder: Path) -> list[Paired]:
    """Every row that was run against the one that it names, by each probe: ablations on the development data, others not.

    :param tasks: by name whether the data are for development.
    :param folder: of the study, under which the results name their predictions.
    """
    first = {line.job.row.name: line for line in lines if line.job.seed == 0 and line.result is not None}
    found, p = [], []
    for line in first.values():
        row = line.job.row
        reference = None if row.against is None else first.get(row.against)
        if reference is None:
            continue
        for task in (name for name, development in tasks.items() if development == (row.group == "ablation")):
            for probe in PROBES:
                assert line.result is not None
                pair = [_entry(one, task, probe, folder) for one in (reference, line)]
                (difference,) = compare(pair, line.result["scores"][task]["metric"])
                values = (difference.value, difference.low, difference.high, None, difference.reason)
                found.append(Paired(row.name, reference.job.row.name, task, probe, *values))
                p.append(difference.p)
    adjusted = iter(holm([value for value in p if value is not None]))
    return [
        one if value is None else replace(one, adjusted=next(adjusted)) for one, value in zip(found, p, strict=True)
    ]


def markdown(pairs: Sequence[Paired]) -> str:
    """One line a comparison."""
    rows = ["| rows | task | probe | difference | p after Holm |", "| --- | --- | --- | --- | --- |"]
    for pair in pairs:
        value = "undefined" if pair.value is None else f"{pair.value:+.3f}"
        if pair.low is not None and pair.high is not None:
            value += f" [{pair.low:+.3f}, {pair.high:+.3f}]"
        p = pair.reason if pair.adjusted is None else f"{pair.adjusted:.3f}"
        rows.append(f"| {pair.row} - {pair.against} | {pair.task} | {PROBES[pair.probe]} | {value} | {p} |")
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
