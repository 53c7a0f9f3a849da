from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import paired
from benchmarks.study.protocol import Job, Row
from benchmarks.study.table import Line
from sgcl_cli.artefacts import store
from sgcl_cli.probe.scores.comparison import ComparedResult
from tests.benchmarks.study.made import TASKS, result


def write_predictions(folder: Path, shift: float) -> str:
    rng = np.random.default_rng(0)
    rows = []
    for row in range(60):
        label = row % 2
        p = float(np.clip(0.5 + (label - 0.5) * 0.3 * (1 - shift) + rng.normal(0, 0.2), 0.01, 0.99))
        known = {"slide_id": "s", "row": row, "patient_id": f"p{row}", "label": "AB"[label], "fold": "test"}
        rows += [{**known, "model": probe, "p_A": 1 - p, "p_B": p} for probe in ("linear", "knn")]
    store.write_csv(folder / "predictions.csv", [*rows[0]], rows)
    return f"{folder.name}/predictions.csv"


def compared(tmp_path: Path, task: str, *rows: Row) -> list[paired.Paired]:
    lines = []
    for row in rows:
        job = Job(row, 0)
        found = result(job, 0.8, (task,))
        worse = 1.0 if row.name == "worse" else 0.0
        found["scores"][task]["predictions"] = write_predictions(tmp_path / row.name, worse)
        lines.append(Line(job, found, "done"))
    return paired.differences(lines, {name: development for name, (_, development) in TASKS.items()}, tmp_path)


def test_ablations_are_compared_with_sgcl_in_pairs(tmp_path: Path) -> None:
    settings = {"pretrain": {"recipe": "sgcl"}}
    ablations = [Row(name, "ablation", against="sgcl", **settings) for name in ("same", "worse")]
    pairs = compared(tmp_path, "crc5 halves", Row("sgcl", against="npid", **settings), *ablations)
    assert [(pair.row, pair.probe) for pair in pairs] == [
        *(("same", "linear"), ("same", "knn"), ("worse", "linear"), ("worse", "knn"))
    ]
    assert pairs[0].value == 0
    assert pairs[0].adjusted == 1
    assert pairs[2].value is not None and pairs[2].value < -0.1
    assert pairs[2].adjusted is not None and pairs[2].adjusted < 0.05
    assert "| worse - sgcl | crc5 halves | linear | 1 | -0." in paired.markdown(pairs)


def test_rows_are_compared_with_what_they_add_to_on_the_held_out_data(tmp_path: Path) -> None:
    settings = {"pretrain": {"recipe": "npid"}}
    pairs = compared(
        tmp_path, "her2st", Row("npid", against="absent", **settings), Row("worse", against="npid", **settings)
    )
    assert [(pair.row, pair.against, pair.task, pair.seeds) for pair in pairs] == [("worse", "npid", "her2st", 1)] * 2
    assert pairs[0].value is not None and pairs[0].value < -0.1


def seeds_of(tmp_path: Path, shifts: list[float]) -> list[list[ComparedResult]]:
    """Pairs of a first encoder without shift and a second one with it, a pair a seed."""
    pairs = []
    for number, shift in enumerate(shifts):
        settings = {"pretrain": {"recipe": "npid"}}
        lines = []
        for name, by in (("first", 0.0), ("second", shift)):
            job = Job(Row(name, **settings), number)
            found = result(job, 0.8)
            place = tmp_path / f"{name}-{number}"
            found["scores"]["her2st"]["predictions"] = write_predictions(place, by)
            lines.append(Line(job, found, "done"))
        pairs.append([paired.entry_of(line, "her2st", "linear", tmp_path) for line in lines])
    return pairs


def test_intervals_over_seeds_hold_the_spread_of_seeds(tmp_path: Path) -> None:
    """One seed is the comparison of two encoders; equal seeds change nothing; seeds that disagree widen the interval."""
    pairs = seeds_of(tmp_path, [0.3, 0.3, 0.9])
    (alone,) = paired.compare(pairs[0], "auroc", resamples=paired.RESAMPLES)
    assert paired.over_seeds(pairs[:1], "auroc") == alone
    same = paired.over_seeds(pairs[:2], "auroc")
    assert (same.value, same.low, same.high) == pytest.approx((alone.value, alone.low, alone.high))
    apart = paired.over_seeds(pairs[1:], "auroc")
    each = [paired.compare(pair, "auroc", resamples=paired.RESAMPLES)[0].value for pair in pairs[1:]]
    assert apart.value == pytest.approx(np.mean(each))
    assert apart.low is not None and apart.high is not None and same.low is not None and same.high is not None
    assert apart.high - apart.low > 1.3 * (same.high - same.low)
