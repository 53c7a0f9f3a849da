"""Differences between rows, paired by patient and seed, with Holm's correction over all comparisons of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.study.table import PROBES, Line
from sgcl_cli.artefacts import store
from sgcl_cli.probe.scores import intervals
from sgcl_cli.probe.scores.comparison import ComparedResult, Difference, compare, holm
from sgcl_cli.probe.scores.metrics import Predictions
from sgcl_cli.probe.scores.resampling import average, resample

RESAMPLES, CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class Paired:
    """``row`` minus ``against``, averaged over the ``seeds`` of both; ``adjusted`` is p after Holm.

    The interval and p are None, with the reason, if there is no interval.
    """

    row: str
    against: str
    task: str
    probe: str
    seeds: int
    value: float | None
    low: float | None
    high: float | None
    adjusted: float | None
    reason: str


def differences(lines: Sequence[Line], tasks: Mapping[str, bool], folder: Path) -> list[Paired]:
    """Every row minus the row it is compared with, for each probe: ablations on development data, others on held-out data.

    :param tasks: whether the data of a task are for development, by name.
    :param folder: of the study, with the predictions.
    """
    done: dict[str, dict[int, Line]] = {}
    for line in lines:
        if line.result is not None:
            done.setdefault(line.job.row.name, {})[line.job.seed] = line
    found, p = [], []
    for own in done.values():
        row = next(iter(own.values())).job.row
        reference = {} if row.against is None else done.get(row.against, {})
        both = sorted({*own} & {*reference})
        if not both:
            continue
        for task in (name for name, development in tasks.items() if development == (row.group == "ablation")):
            for probe in PROBES:
                pairs = [[entry_of(one[seed], task, probe, folder) for one in (own, reference)] for seed in both]
                first = own[both[0]].result
                assert first is not None and row.against is not None
                difference = over_seeds(pairs, first["scores"][task]["metric"])
                values = (difference.value, difference.low, difference.high, None, difference.reason)
                found.append(Paired(row.name, row.against, task, probe, len(both), *values))
                p.append(difference.p)
    adjusted = iter(holm([value for value in p if value is not None]))
    return [
        one if value is None else replace(one, adjusted=next(adjusted)) for one, value in zip(found, p, strict=True)
    ]


def over_seeds(pairs: Sequence[Sequence[ComparedResult]], metric: str) -> Difference:
    """The mean over seeds of first minus second of each pair, with an interval for patients and seeds.

    The differences of all seeds are resampled on the same patients. The variance of the mean over S seeds, s^2 / S with S - 1
    degrees of freedom, is added to the variance over patients, so few seeds give a wide interval. With one seed the interval
    is that of ``compare``.
    """
    each = [compare(pair, metric, resamples=RESAMPLES)[0] for pair in pairs]
    values = [one.value for one in each if one.value is not None]
    if len(pairs) == 1 or len(values) < len(pairs) or any(one.low is None for one in each):
        value = float(np.mean(values)) if len(values) == len(pairs) else None
        return replace(each[0], value=value)
    moved = [
        resample(first.reported, RESAMPLES, 0)[metric] - resample(second.reported, RESAMPLES, 0)[metric]
        for first, second in pairs
    ]
    of_seeds = (float(np.var(values, ddof=1)) / len(values), len(values) - 1.0)
    tested = intervals.difference(average(moved), CONFIDENCE, unseen=[of_seeds])
    return replace(
        each[0],
        value=float(np.mean(values)),
        low=tested.interval.low,
        high=tested.interval.high,
        p=tested.p,
        reason=tested.interval.reason,
    )


def markdown(pairs: Sequence[Paired]) -> str:
    """A table with one line per comparison."""
    rows = ["| rows | task | probe | seeds | difference | p after Holm |", "| --- | --- | --- | --- | --- | --- |"]
    for pair in pairs:
        value = "undefined" if pair.value is None else f"{pair.value:+.3f}"
        if pair.low is not None and pair.high is not None:
            value += f" [{pair.low:+.3f}, {pair.high:+.3f}]"
        p = pair.reason if pair.adjusted is None else f"{pair.adjusted:.3f}"
        rows.append(
            f"| {pair.row} - {pair.against} | {pair.task} | {PROBES[pair.probe]} | {pair.seeds} | {value} | {p} |"
        )
    return "\n".join(rows)


def entry_of(line: Line, task: str, probe: str, folder: Path) -> ComparedResult:
    """The predictions of a job on the test rows of a task, for ``compare``."""
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
    return ComparedResult(
        line.job.row.name, np.array([f"{row['slide_id']}/{row['row']}" for row in rows]), truth, reported
    )
