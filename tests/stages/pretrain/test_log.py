from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.config import PretrainConfig
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain.log import MetricsLog

Make = Callable[..., Path]


@pytest.mark.parametrize("line", ["5", '{"step": "x"}', '{"step": ' + "9" * 5000 + "}", "[" * 2000, '{"ste'])
def test_metrics_hold_each_step_epoch_and_refit_once(tmp_path: Path, line: str) -> None:
    log = MetricsLog(tmp_path, writes=True)
    entries = [{"step": 1}, {"step": 2}, {"step": 2, "summary": {"epoch": 1}}, {"step": 2, "clusters": {}}, {"step": 3}]
    for entry in entries:
        log.write(entry)
    log.flush()
    with log.path.open("a") as file:  # as a run leaves it that was killed while it wrote
        file.write(line)
    again = MetricsLog(tmp_path, writes=True)
    again.trim(2)
    assert again.summaries() == [{"epoch": 1}]
    for entry in entries[2:]:
        again.write(entry)
    again.flush()
    assert [json.loads(text) for text in again.path.read_text().splitlines()] == entries


def test_metrics_of_a_run_without_a_checkpoint_begin_anew(config: PretrainConfig) -> None:
    Path(config.out).mkdir()
    (Path(config.out) / "metrics.jsonl").write_text('{"step": 1, "loss": {}}\n{"step": 2, "loss": {}}\n')
    pretrain(replace(config, epochs=1))
    steps = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    told = [(entry["step"], [*entry]) for entry in steps if "loss" in entry]
    assert len({step for step, _ in told}) == len(told) > 0
