from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_encoder
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.ranks import Ranks
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ConfigError, Interrupted
from sgcl_cli.method.objective import Losses, Term
from sgcl_cli.progress import Silent
from sgcl_cli.report.board import scalars
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain.log import MetricsLog, Tally
from sgcl_cli.stages.pretrain.monitor import Watch
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[..., Path]


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        patches=str(make_patches()), out=str(tmp_path / "run"), epochs=2, batch=8, negatives=16, threads=1, device="cpu"
    )


def _losses(total: float, same_slide: float) -> Losses:
    one = torch.tensor(total)
    seen = {"positives": torch.tensor([2.0, 4.0]), "similarity": -one, "same_slide": torch.tensor(same_slide)}
    near, count = one / 4, torch.tensor(2.0)
    return Losses(one - near, {"far": Term(one / 2), "near": Term(count * near, count)}, lambda: seen)


def test_steps_wait_on_a_gpu_and_are_logged_together(config: PretrainConfig, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, writes=True)
    cuda = Runtime(torch.device("cuda:0"), None)
    watch = Watch(replace(config, log_every=3), cuda, log, Ranks())
    watch._memory = lambda: 7.0  # type: ignore[method-assign]
    tally, seen = Tally(), Tally()
    v = torch.eye(4)
    for step in range(1, 4):
        assert not watch.due
        known = {"step": step, "epoch": 0.1 * step, "lr": 0.1, "ramp": 1.0, "data_wait": 0.25, "host_seconds": 0.5}
        watch.step(known, _losses(step, 0.5 if step == 2 else float("nan")), v)
    assert watch.due and watch.read(tally, seen, wait=True)["loss"]["total"] == 3.0
    log.flush()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1]["loss"] == {"total": 2, "far": 1, "near": 0.5}
    assert [line["same_slide"] for line in lines] == [None, 0.5, None]
    assert lines[0]["positives"] == 3 and lines[0]["similarity"] == -1 and lines[0]["memory_mib"] == 7
    assert lines[0]["pair_similarity"] == 0 and lines[0]["spread"] == pytest.approx(2 * (3 / 16) ** 0.5)
    assert lines[0]["images_per_second"] > 0 and seen.means()["data_wait"] == lines[0]["data_wait"] == 0.25
    assert seen.means()["host_seconds"] == lines[0]["host_seconds"] == 0.5
    assert tally.means()["total"] == 2 and seen.means()["same_slide"] == 0.5
    assert watch.read(tally, seen, wait=True) is None


def test_a_run_with_a_probe_says_how_it_goes_and_keeps_the_best(config: PretrainConfig, pictures: None) -> None:
    outcome = pretrain(replace(config, probe="labels"))
    out = Path(config.out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    summaries = [line["summary"] for line in lines if "summary" in line]
    assert [summary["epoch"] for summary in summaries] == [1, 2]
    steps = [line for line in lines if "loss" in line]
    first = [step["spread"] for step in steps[:3]]
    assert summaries[0]["spread"] == pytest.approx(sum(first) / 3)
    assert all(1 < summary["effective_rank_v"] <= 31 and summary["effective_rank_h"] > 1 for summary in summaries)
    scores = [summary["probe"]["balanced_accuracy"] for summary in summaries]
    assert outcome.data["probe"]["best"] == max(scores)
    best, _ = load_encoder(out / "best.pt")
    assert best.epochs == 1 + scores.index(max(scores)) and best.probe_slides == ("identity of a", "identity of b")
    assert load_encoder(out)[0].probe_slides == ("identity of a", "identity of b")
    assert store.read_json(out / "run.json")["result"]["probe"]["slides"] == ["identity of a", "identity of b"]
    rows = (out / "slides.csv").read_text().splitlines()
    assert rows[0].endswith(",probe") and all(row.endswith(",1") for row in rows[1:])
    for name in ("views.png", "curves.png", "neighbours.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_the_probe_does_not_change_what_is_learned_and_comes_every_so_often(
    config: PretrainConfig, tmp_path: Path, without_matplotlib: None, pictures: None
) -> None:
    reporter = Silent()
    outcome = pretrain(replace(config, probe="labels", probe_every=2), reporter)
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    assert ["probe" in line["summary"] for line in lines if "summary" in line] == [False, True]
    without = replace(config, out=str(tmp_path / "without"))
    pretrain(without)
    one, two = load_encoder(config.out)[1], load_encoder(without.out)[1]
    assert all(torch.equal(one[name], two[name]) for name in one)
    missing = [warning for warning in outcome.warnings if "matplotlib is not installed" in warning]
    assert len(missing) == 1 and missing[0] in reporter.warnings
    assert not list(Path(config.out).glob("*.png"))


def test_a_small_corpus_is_told_so_before_the_first_step(config: PretrainConfig) -> None:
    reporter = Silent()
    pretrain(replace(config, dry_run=True), reporter)
    assert any(warning.startswith("31 patches are too few for 10 clusters") for warning in reporter.warnings)


def test_collapse_is_said_once(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import sgcl_cli.stages.pretrain.monitor as watch

    calls = iter(range(100))
    monkeypatch.setattr(watch, "spread", lambda v: torch.tensor(1e-4 * next(calls)))
    outcome = pretrain(replace(config, weight_spatial=0.0, weight_inner=0.0))
    said = [warning.partition(":")[0] for warning in outcome.warnings]
    assert said.count("the embeddings have collapsed") == 1 and len(said) == len(set(said))


def test_what_an_interrupted_part_of_a_run_said_is_in_run_json(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A self term that never moves is said once, of the first epoch, though the process that saw it is gone."""
    config = replace(config, ramp_epochs=0.0, lr=1e-9, bank_start="random")
    stepped = Pretraining.stepped

    def interrupted(self: Pretraining, batch: object, position: Position) -> None:
        stepped(self, batch, position)  # type: ignore[arg-type]
        if position.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Pretraining, "stepped", interrupted)
    first = Silent()
    with pytest.raises(Interrupted):
        pretrain(config, first)
    assert any(warning.startswith("the self term is at chance") for warning in first.warnings)
    said = [warning for warning in pretrain(config).warnings if warning.startswith("the self term is at chance")]
    assert len(said) == 1 and "in epoch 1" in said[0]


def test_numbers_for_tensorboard_are_found_by_their_paths() -> None:
    line = {
        "step": 3,
        "epoch": 0.5,
        "loss": {"total": 1, "deep": {"x": 2.5}},
        "name": "text",
        "flag": True,
        "none": None,
    }
    assert dict(scalars({**line, "lr": 0.1})) == {"loss/total": 1, "loss/deep/x": 2.5, "lr": 0.1}


def test_tensorboard_that_is_not_installed(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"--tensorboard needs TensorBoard.*pip install 'sgcl\[tensorboard\]'"):
        pretrain(replace(config, tensorboard=True))


def test_tensorboard_has_the_same_numbers(config: PretrainConfig) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(replace(config, tensorboard=True))
    events = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    expected = [line["loss"]["total"] for line in lines if "loss" in line]
    assert [event.value for event in events.Scalars("loss/total")] == pytest.approx(expected, rel=1e-5)
    assert len(events.Scalars("epoch/effective_rank_v")) == 2
