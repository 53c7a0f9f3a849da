"""Is a row other than the one that it adds to? Paired by patient and seed, Holm over all comparisons of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.study.table import PROBES, Line
from sgcl_cli.artefacts import store
from sgcl_cli.probe.scores.comparison import Difference, Entry, compare, holm
from sgcl_cli.probe.scores.intervals import difference
from sgcl_cli.probe.scores.metrics import Predictions
from sgcl_cli.probe.scores.resampling import average, resample

RESAMPLES = 2000


@dataclass(frozen=True)
class Paired:
    """``row`` minus ``against``, the mean over the ``seeds`` that both have; ``adjusted`` after Holm. None with the reason where
    there is no interval."""

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
    """Every row that was run against the one that it names, by each probe: ablations on the development data, others not.

    :param tasks: by name whether the data are for development.
    :param folder: of the study, under which the results name their predictions.
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
                pairs = [[entry_of(one[seed], task, probe, folder) for one in (reference, own)] for seed in both]
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


def over_seeds(pairs: Sequence[Sequence[Entry]], metric: str) -> Difference:
    """The mean over seeds of the second minus the first of each pair.

    Every seed's difference is taken on the same resampled patients; to the variance over patients comes that of the mean of S
    seeds, s^2 / S with S - 1 degrees of freedom. With one seed it is that of ``compare``.
    """
    each = [compare(pair[::-1], metric, resamples=RESAMPLES)[0] for pair in pairs]
    values = [one.value for one in each if one.value is not None]
    if len(pairs) == 1 or len(values) < len(pairs) or any(one.low is None for one in each):
        value = float(np.mean(values)) if len(values) == len(pairs) else None
        return replace(each[0], value=value)
    apart = []
    for pair in pairs:
        first, second = (resample(one.reported, RESAMPLES, 0)[metric] for one in pair)
        apart.append(second - first)
    of_seeds = float(np.var(values, ddof=1)) / len(pairs), len(pairs) - 1
    tested = difference(average(apart), 0.95, [of_seeds])
    low, high = tested.interval.low, tested.interval.high
    return replace(each[0], value=float(np.mean(values)), low=low, high=high, p=tested.p, reason=tested.interval.reason)


def markdown(pairs: Sequence[Paired]) -> str:
    """One line a comparison."""
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


def entry_of(line: Line, task: str, probe: str, folder: Path) -> Entry:
    """The predictions of a job on a task's test rows, as ``compare`` takes them."""
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
