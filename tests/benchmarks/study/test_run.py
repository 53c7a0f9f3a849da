from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import __main__ as study
from benchmarks.study.budget import Budget
from benchmarks.study.protocol import Job, Row
from sgcl_cli.artefacts.lock import held
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.errors import ConfigError, Interrupted
from sgcl_cli.stages.embed import embed
from tests.benchmarks.study.made import result


class Bench:
    """Stands for the work: counts it, and does it at once."""

    def __init__(self, failing: Callable[[Job], Exception | None] = lambda job: None) -> None:
        self.done: list[str] = []
        self.failing = failing

    def __call__(self, job: Job, key: str) -> dict[str, Any]:
        error = self.failing(job)
        if error is not None:
            raise error
        self.done.append(job.row.name)
        return result(job, 0.8)


JOBS = [Job(Row("colour", encoder="mean-colour"), 0), Job(Row("sgcl", pretrain={"recipe": "sgcl"}), 0)]
KEYS = {job: job.row.name for job in JOBS}


class TestRun:
    def test_what_is_done_is_not_done_again(self, tmp_path: Path) -> None:
        bench = Bench()
        first = study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)
        again = study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)
        assert bench.done == ["colour", "sgcl"]
        assert [line.result for line in again] == [line.result for line in first]
        (tmp_path / "results" / "sgcl.json").unlink()
        study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)
        assert bench.done == ["colour", "sgcl", "sgcl"]

    def test_without_time_what_is_done_is_shown_and_the_rest_is_marked(self, tmp_path: Path) -> None:
        study.run(JOBS[:1], KEYS, tmp_path, budget=Budget(None), do=Bench(), reached=lambda job, key: None)
        bench = Bench()
        lines = study.run(JOBS, KEYS, tmp_path, budget=Budget(0), do=bench, reached=lambda job, key: None)
        assert [line.state for line in lines] == ["done", "not run"]
        lines = study.run(JOBS, KEYS, tmp_path, budget=Budget(0), do=bench, reached=lambda job, key: 7)
        assert lines[1].state == "stopped after epoch 7"
        assert bench.done == []

    def test_a_row_that_cannot_be_made_is_said_to_and_tried_again(self, tmp_path: Path) -> None:
        bench = Bench(lambda job: ConfigError("no weights", "install them") if job.row.name == "colour" else None)
        lines = study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)
        assert [line.state for line in lines] == ["skipped: no weights", "done"]
        bench.failing = lambda job: None
        assert (
            study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)[0].result
            is not None
        )

    def test_a_signal_that_is_not_the_budgets_stops_the_study(self, tmp_path: Path) -> None:
        bench = Bench(lambda job: Interrupted(signal.SIGINT))
        with pytest.raises(Interrupted):
            study.run(JOBS, KEYS, tmp_path, budget=Budget(60), do=bench, reached=lambda job, key: None)

    def test_what_another_process_has_begun_is_left_to_it(self, tmp_path: Path) -> None:
        bench = Bench()
        with held(tmp_path / "results" / ".sgcl.lock"):
            lines = study.run(JOBS, KEYS, tmp_path, budget=Budget(None), do=bench, reached=lambda job, key: None)
        assert [line.state for line in lines] == ["done", "in another process"]
        assert bench.done == ["colour"]

    def test_processes_share_what_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[list[str]] = []

        class Started:
            def __init__(self, command: list[str], **how: object) -> None:
                started.append(command)

            wait = terminate = lambda self: None

        monkeypatch.setattr(study.subprocess, "Popen", Started)
        study.side_by_side(2, ["--size", "gpu", "--out", "study"], 12.5)
        assert [command[1:] for command in started] == [
            ["-m", "benchmarks.study", "--size", "gpu", "--out", "study", "--minutes", "12.5"]
        ] * 2


class TestBudget:
    def test_training_that_outlasts_it_is_asked_to_stop(self) -> None:
        budget, before = Budget(0.001), signal.getsignal(signal.SIGTERM)
        with budget.enforced(), StopRequest() as stop:
            end = time.monotonic() + 10
            while stop.signum is None and time.monotonic() < end:
                time.sleep(0.01)
        assert stop.signum == signal.SIGTERM
        assert budget.spent
        assert signal.getsignal(signal.SIGTERM) == before

    def test_without_an_end_nothing_is_touched(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Budget(None).enforced():
            assert signal.getsignal(signal.SIGTERM) == before
        assert not Budget(None).spent


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_reduced_study_runs_and_a_second_run_finds_everything_done(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGCL_DATA", str(real_data))
    command = ["--size", "smoke", "--rows", "sgcl", "--out", str(tmp_path), "--threads", "1", "--workers", "1"]
    assert study.main(command) == 0
    text = capsys.readouterr().out
    assert "1 of 1 rows and seeds were run." in text
    assert "| sgcl | 1 | 2 |" in text
    assert "No interval on bcss" in text
    assert "| 2 | other/tumour |" in text
    assert {"study.md", "study.csv", "study.png", "purity.png"} <= {path.name for path in tmp_path.iterdir()}
    (kept,) = (tmp_path / "results").iterdir()
    assert 0 <= json.loads(kept.read_text())["scores"]["bcss"]["linear"]["value"] <= 1
    monkeypatch.setattr("benchmarks.study.work.embed", lambda config: pytest.fail(f"{embed} was called again"))
    assert study.main(command) == 0
    assert capsys.readouterr().out == text
    monkeypatch.setenv("SGCL_DATA", str(tmp_path / "elsewhere"))
    assert study.main(command) == 0
    assert capsys.readouterr().out == text
    assert study.main([*command[:2], "--rows", "sgcl, hold-out seen", "--out", str(tmp_path)]) == 2
    assert "was prepared for another study" in capsys.readouterr().err
