from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgcl_cli.stages.pretrain.log import MetricsLog, Tally

STEPS = [{"step": step, "loss": {"total": 1.0 / step}} for step in (1, 2, 3)]


def log_of(folder: Path, *entries: dict[str, Any]) -> MetricsLog:
    log = MetricsLog(folder, writes=True)
    for entry in entries:
        log.write(entry)
    log.flush()
    return log


def lines(log: MetricsLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_tally_means_each_number_over_the_steps_that_had_it() -> None:
    tally = Tally()
    for numbers in ({"total": 1.0, "spatial": None}, {"total": 2.0, "spatial": 4.0}, {"total": 6.0}):
        tally.add(numbers)
    assert tally.means() == {"total": 3.0, "spatial": 4.0}


def test_a_tally_goes_on_from_a_checkpoint() -> None:
    tally = Tally()
    tally.add({"total": 1.0})
    content = json.loads(json.dumps(tally.content()))
    again = Tally.of(content)
    again.add({"total": 4.0})
    assert again.means() == {"total": 2.5} and tally.means() == {"total": 1.0}


def test_lines_wait_until_they_are_flushed_and_are_written_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "new", writes=True)
    log.write(STEPS[0])
    assert not log.path.exists()
    log.flush()
    log.flush()
    assert lines(log) == STEPS[:1]


def test_nothing_is_kept_where_nothing_may_be_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "new", writes=False)
    log.write(STEPS[0])
    log.flush()
    log.trim(0)
    assert not (tmp_path / "new").exists() and log.summaries() == []


def test_trim_drops_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    log = log_of(tmp_path, *STEPS)
    log.trim(2)
    assert lines(log) == STEPS[:2]


def test_what_stands_at_the_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    summary = {"step": 2, "summary": {"epoch": 1}}
    log_of(tmp_path, *STEPS[:2], summary)
    log = MetricsLog(tmp_path, writes=True)
    log.trim(2)
    for entry in (STEPS[1], summary, {"step": 2, "clusters": {"count": 4}}, STEPS[2]):
        log.write(entry)
    log.flush()
    assert lines(log) == [*STEPS[:2], summary, {"step": 2, "clusters": {"count": 4}}, STEPS[2]]


def test_summaries_end_with_the_first_damaged_line(tmp_path: Path) -> None:
    log = log_of(tmp_path, {"step": 3, "summary": {"epoch": 1}}, STEPS[0])
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo\n{"step": 6, "summary": {"epoch": 2}}\n')
    assert log.summaries() == [{"epoch": 1}]


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        MetricsLog(tmp_path, writes=True).write({"step": 1, "loss": float("nan")})
