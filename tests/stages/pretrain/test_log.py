from __future__ import annotations

import json
import os
import subprocess
import sys
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [".writer.lock", "last.pt", "metrics.jsonl"])
def test_a_fifo_in_the_output_is_refused(make_patches: Make, tmp_path: Path, name: str) -> None:
    """In a process of its own, which would wait for ever."""
    out = tmp_path / "run"
    out.mkdir()
    os.mkfifo(out / name)
    patches = make_patches(slides={"a": (4, 4)})
    words = [
        "pretrain",
        str(patches),
        "--out",
        str(out),
        "--epochs",
        "1",
        "--batch",
        "4",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    done = subprocess.run([sys.executable, "-m", "sgcl_cli", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert name in line and ("not a regular file" in line or "it is a FIFO" in line)
    assert "Traceback" not in done.stderr
