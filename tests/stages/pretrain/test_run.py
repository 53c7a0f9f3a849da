from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder, save_checkpoint
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.loader import StoredPatches, epoch_order
from sgcl_cli.errors import ArtefactError, ConfigError, Interrupted, TrainingError
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.resnet import RESNETS, ResNet
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain import experiment, pretrain
from sgcl_cli.stages.pretrain import training as stage
from sgcl_cli.stages.pretrain.dry_run import Cost
from sgcl_cli.stages.pretrain.log import MetricsLog

Make = Callable[..., Path]


class Small(nn.Module):
    """An encoder with batch norm that costs nothing; runs in a process of their own have the real one."""

    embedding_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, 3, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.conv1(x))).mean((2, 3))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "resnet18", Small)


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        patches=str(make_patches()), out=str(tmp_path / "run"), epochs=3, batch=8, negatives=16, threads=1, device="cpu"
    )


def _state(out: str) -> dict[str, torch.Tensor]:
    return load_encoder(out)[1]


def _steps(out: str) -> list[dict]:
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_a_run_leaves_what_the_design_says(config: PretrainConfig, pictures: None) -> None:
    outcome = pretrain(config)
    out = Path(config.out)
    expected = {
        "last.pt",
        "encoder.safetensors",
        "encoder.json",
        "metrics.jsonl",
        "views.png",
        "curves.png",
        "neighbours.png",
        "slides.csv",
        "run.json",
    }
    assert {p.name for p in out.iterdir()} == expected
    card, _ = load_encoder(out)
    assert (card.name, card.input_size, card.mpp, card.patch_size, card.epochs) == ("resnet18", 28, 0.5, 32, 3)
    assert card.pretrain_slides == ("identity of a", "identity of b")
    steps = _steps(config.out)
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert steps[0]["propagated_positives"] == 0 and steps[0]["spatial_positives"] > 3
    clusters = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if '"clusters"' in line]
    assert [line["step"] for line in clusters] == [3, 6]
    assert steps[0]["lr"] == config.lr and steps[-1]["lr"] < steps[0]["lr"]
    assert outcome.data["steps"] == 9
    run = store.read_json(out / "run.json")
    assert run["config"]["batch"] == 8 and run["inputs"]["patches"] and run["peak_memory_mib"]["process"] > 0


def test_the_same_command_again_does_nothing(config: PretrainConfig) -> None:
    first = pretrain(config)
    before = (Path(config.out) / "last.pt").stat().st_mtime_ns
    assert pretrain(config).data == first.data
    assert (Path(config.out) / "last.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(("base", "start"), [("npid", "random"), ("moco", "encoded")])
def test_stopped_after_any_step_and_resumed_equals_uninterrupted_to_the_bit(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, start: str
) -> None:
    config = replace(config, base=base, bank_start=start)
    pretrain(config)
    broken = replace(config, out=str(tmp_path / "broken"))
    stepped = stage.Pretraining.stepped

    def interrupted(self: stage.Pretraining, batch: object, position: Position) -> None:
        stepped(self, batch, position)  # type: ignore[arg-type]
        if position.step in (2, 3, 5, 7):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stage.Pretraining, "stepped", interrupted)
    for _ in range(4):
        with pytest.raises(Interrupted) as stop:
            pretrain(broken)
        assert stop.value.signum == signal.SIGTERM
    pretrain(broken)
    whole, parts = _state(config.out), _state(broken.out)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [s["loss"] for s in _steps(config.out)] == [s["loss"] for s in _steps(broken.out)]


def test_banks_may_start_as_what_the_untrained_networks_make_of_the_patches(config: PretrainConfig) -> None:
    similarity = {}
    for start in ("random", "encoded"):
        run = replace(config, epochs=1, bank_start=start, out=f"{config.out}-{start}")
        pretrain(run)
        similarity[start] = _steps(run.out)[0]["positive_similarity"]
    assert abs(similarity["random"]) < 0.2 < similarity["encoded"]


def test_kill_9_and_again(config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "resnet18", lambda: ResNet(*RESNETS["resnet18"]))
    pretrain(config)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "sgcl_cli", "pretrain", config.patches, "--out", str(out)]
    command += ["--epochs", "3", "--batch", "8", "--negatives", "16", "--threads", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (out / "last.pt").exists() and not (out / "run.json").exists()
    assert load_checkpoint(out / "last.pt")["position"][2] in (3, 6)
    assert subprocess.run(command, capture_output=True).returncode == 0
    whole, parts = _state(config.out), _state(str(out))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [s["step"] for s in _steps(str(out))] == list(range(1, 10))


def test_worker_count_does_not_matter(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, epochs=1))
    pretrain(replace(config, epochs=1, workers=2, out=str(tmp_path / "two")))
    one, two = _state(config.out), _state(str(tmp_path / "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_settings_are_refused_by_field_and_nothing_is_lost(config: PretrainConfig) -> None:
    pretrain(config)
    before = {p.name: p.read_bytes() for p in Path(config.out).iterdir()}
    with pytest.raises(ConfigError, match="--lr was 0.015, is 0.1; --radius was 3.0, is 2.0"):
        pretrain(replace(config, lr=0.1, radius=2.0))
    assert {p.name: p.read_bytes() for p in Path(config.out).iterdir()} == before
    assert pretrain(replace(config, lr=0.1, overwrite=True)).data["steps"] == 9
    assert _steps(config.out)[0]["lr"] == 0.1


def test_another_corpus_is_refused_by_what_changed(config: PretrainConfig, make_patches: Make) -> None:
    pretrain(replace(config, epochs=1))
    (Path(config.patches) / "patches" / "a.h5").unlink()
    make_patches(slides={"b": (5, 4), "c": (3, 3)})
    with pytest.raises(
        ConfigError, match="1 slides added, first 'c'; 1 slides gone, first 'a'; 1 slides changed, first 'b'"
    ):
        pretrain(replace(config, epochs=1))


def test_too_few_patches(config: PretrainConfig) -> None:
    with pytest.raises(TrainingError, match="31 patches, fewer than a batch of 64 .*--batch 15"):
        pretrain(replace(config, batch=64))
    assert not Path(config.out).exists()


def test_coordinates_without_pixels(config: PretrainConfig, make_patches: Make) -> None:
    bare = make_patches("bare", pixels=False)
    with pytest.raises(ArtefactError, match="coordinates without pixels"):
        pretrain(replace(config, patches=str(bare)))


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.Pretraining.loss
    monkeypatch.setattr(
        stage.Pretraining, "loss", lambda self, b, p: whole(self, b, p) * (float("nan") if p.step == 4 else 1)
    )
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4 .*last good checkpoint is .*last.pt"):
        pretrain(config)
    assert load_checkpoint(Path(config.out) / "last.pt")["position"] == [1, 0, 3]
    with np.load(Path(config.out) / "failed_batch.npz") as kept:
        order = epoch_order(31, 8, config.seed, 1)[1]
        assert (int(kept["step"]), int(kept["epoch"])) == (4, 1) and np.array_equal(kept["index"], order)
        read = StoredPatches(PatchIndex.open(config.patches))
        assert np.array_equal(kept["patches"], np.stack([read(int(i)) for i in order]))
        assert set(kept["slide_id"]) <= {"a", "b"}


def test_the_checkpoints_of_the_last_epochs_are_kept(config: PretrainConfig) -> None:
    pretrain(replace(config, keep=2))
    kept = sorted(path.name for path in Path(config.out).glob("epoch-*.pt"))
    assert kept == ["epoch-0002.pt", "epoch-0003.pt"]
    assert load_checkpoint(Path(config.out) / kept[0])["position"] == [2, 0, 6]
    assert load_encoder(Path(config.out) / kept[0])[0].epochs == 2
    pretrain(replace(config, epochs=1, overwrite=True))
    assert not list(Path(config.out).glob("epoch-*.pt"))


def test_the_rule_for_the_learning_rate(config: PretrainConfig) -> None:
    assert config.peak_lr == 0.015 and replace(config, lr_scale="linear").peak_lr == pytest.approx(0.015 / 16)


def test_a_damaged_checkpoint_is_not_taken_for_good(config: PretrainConfig) -> None:
    pretrain(replace(config, epochs=1))
    last = Path(config.out) / "last.pt"
    (Path(config.out) / "run.json").unlink()
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="last.pt is not a checkpoint: damaged"):
        pretrain(replace(config, epochs=1))


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [
        ((0.1, 0.1, 0.3, 0.2, 0.5), "encoder"),
        ((0.1, 0.4, 0.3, 0.2, 0.5), "views"),
        ((0.1, 0.1, 0.3, 0.2, 0.7), "host"),
        ((0.9, 0.1, 0.3, 0.2, 0.7), "data"),
    ],
)
def test_what_bounds_a_step(seconds: tuple[float, ...], bound: str) -> None:
    assert Cost(1.0, 1.0, *seconds).bound == bound


def test_dry_run_writes_nothing(config: PretrainConfig) -> None:
    outcome = pretrain(replace(config, dry_run=True))
    data = outcome.data
    assert data["steps"] == 9 and data["seconds_per_step"] > 0
    pieces = data["seconds_of"]
    names = ("views", "encoder", "objective")
    assert set(pieces) == {"data", *names, "host", "clusters"} and min(pieces.values()) > 0
    assert pieces["host"] == pytest.approx(sum(pieces[name] for name in names))
    assert data["bound"] == max(names, key=pieces.__getitem__)
    assert data["images_per_second"] == pytest.approx(8 / data["seconds_per_step"])
    hours = (9 * data["seconds_per_step"] + 2 * pieces["clusters"]) / 3600
    assert data["expected_hours"] == pytest.approx(hours)
    assert data["memory"]["process"] > 2**26
    assert not Path(config.out).exists()


def test_a_dry_run_of_moco(config: PretrainConfig) -> None:
    assert (
        pretrain(replace(config, base="moco", weight_inner=0.0, epochs=1, dry_run=True)).data["images_per_second"] > 0
    )


def test_a_line_says_how_long_its_data_were_waited_for(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    into = StoredPatches.into

    def slow(self: StoredPatches, i: int, pixels: np.ndarray) -> None:
        time.sleep(0.01)
        into(self, i, pixels)

    monkeypatch.setattr(StoredPatches, "into", slow)
    pretrain(replace(config, epochs=1))
    assert all(0.08 <= step["data_wait"] < 5 for step in _steps(config.out))
    assert all(step["host_seconds"] > 0 for step in _steps(config.out))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_networks_train_alike_and_leave_the_same_names(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, epochs=1))
    pretrain(replace(config, epochs=1, compile=True, out=str(tmp_path / "compiled")))
    plain, compiled = _state(config.out), _state(str(tmp_path / "compiled"))
    assert plain.keys() == compiled.keys()
    first, second = (_steps(out)[0]["loss"] for out in (config.out, str(tmp_path / "compiled")))
    assert second == pytest.approx(first, rel=1e-4)


def test_terms_can_be_left_out(config: PretrainConfig, tmp_path: Path) -> None:
    out = str(tmp_path / "npid")
    pretrain(replace(config, epochs=1, weight_spatial=0.0, weight_inner=0.0, out=out))
    losses = [step["loss"] for step in _steps(out)]
    assert all(loss["spatial"] == loss["inner"] == 0 and loss["total"] == loss["self"] > 0 for loss in losses)


def test_moco_takes_keys_from_the_network_that_follows(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    commit = SGCL.commit

    def watched(self: SGCL, index: torch.Tensor, new: Embedded, **how: float) -> None:
        commit(self, index, new, **how)
        queued = bool(torch.isin(index, self.base.queue.index_Q).all())
        seen.append((queued, torch.allclose(self.bank_v[index], new.v, atol=1e-6), new.v.requires_grad))

    monkeypatch.setattr(SGCL, "commit", watched)
    pretrain(replace(config, base="moco", epochs=1, queue=16))
    assert seen and all(queued and same and not gradient for queued, same, gradient in seen)
    checkpoint = load_checkpoint(Path(config.out) / "last.pt")
    query, key = checkpoint["encoder"]["state"]["conv1.weight"], checkpoint["keys"]["encoder.conv1.weight"]
    assert not torch.equal(query, key)


def test_a_run_that_learned_nothing_says_so(config: PretrainConfig) -> None:
    reporter = Silent()
    outcome = pretrain(
        replace(config, epochs=1, lr=1e-9, weight_spatial=0.0, weight_inner=0.0, bank_start="random"), reporter
    )
    (warning,) = outcome.warnings
    assert warning.startswith("the self term is at chance or above it") and "where ln(31) = 3.43" in warning
    assert store.read_json(Path(config.out) / "run.json")["result"]["warnings"] == reporter.warnings == [warning]


def test_banks_that_do_not_fit_are_refused_before_they_are_made(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.engine, "free_bytes", lambda runtime: 1000)
    monkeypatch.setattr(SGCL, "__init__", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(TrainingError, match="need 0.0 GiB, cpu has 0.0 GiB free .*--bank-dtype bfloat16, --ranking v"):
        pretrain(config)


def test_bfloat16_banks_train(config: PretrainConfig) -> None:
    pretrain(replace(config, epochs=2, bank_dtype="bfloat16"))
    assert load_checkpoint(Path(config.out) / "last.pt")["objective"]["bank_v"].dtype == torch.bfloat16


def test_hand_set_counts_that_are_clamped_warn(config: PretrainConfig) -> None:
    reporter = Silent()
    pretrain(replace(config, neighbours=500, dry_run=True), reporter)
    assert any("neighbours" in warning for warning in reporter.warnings)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda(config: PretrainConfig) -> None:
    assert pretrain(replace(config, device="cuda")).data["steps"] == 9


@pytest.mark.parametrize(
    "change",
    [
        {"position": ["x", 0, 0]},
        {"position": [10**400, 0, 0]},
        {"config": [1]},
        {"slides": None},
        {"encoder": {"state": 5}},
        {"projector": {}},
        {"objective": {}},
        {"optimiser": {"state": {}, "param_groups": []}},
        {"tally": {"sums": 5}},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_checkpoint_that_lacks_something_or_has_other_shapes(
    config: PretrainConfig, change: dict[str, object]
) -> None:
    pretrain(replace(config, epochs=1))
    out = Path(config.out)
    (out / "run.json").unlink()
    content = {**load_checkpoint(out / "last.pt"), **change}
    content.pop("format")
    save_checkpoint(out / "last.pt", content)
    with pytest.raises(ArtefactError, match="last.pt") as caught:
        pretrain(replace(config, epochs=1))
    assert "\n" not in caught.value.message and "--overwrite" in caught.value.hint


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
