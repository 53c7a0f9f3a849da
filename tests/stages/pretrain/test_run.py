from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder
from sgcl_cli.config import PretrainConfig
from sgcl_cli.errors import ArtefactError, SgclError, TrainingError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.resnet import RESNETS, ResNet
from sgcl_cli.stages.pretrain import pretrain
from tests.stages.pretrain.outputs import steps_of, weights_of

Make = Callable[..., Path]


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
    steps = steps_of(config.out)
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert steps[0]["propagated_positives"] == 0 and steps[0]["spatial_positives"] > 3
    clusters = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if '"clusters"' in line]
    assert [line["step"] for line in clusters] == [3, 6]
    assert steps[0]["lr"] == config.lr and steps[-1]["lr"] < steps[0]["lr"]
    assert outcome.data["steps"] == 9
    run = store.read_json(out / "run.json")
    assert run["config"]["batch"] == 8 and run["inputs"]["patches"] and run["peak_memory_mib"]["process"] > 0


def test_a_run_is_replaced_only_when_nothing_refuses_the_command(config: PretrainConfig) -> None:
    pretrain(replace(config, epochs=1))
    before = {path.name: path.read_bytes() for path in Path(config.out).iterdir() if path.is_file()}
    with pytest.raises(SgclError):
        pretrain(replace(config, epochs=1, device="cuda:99", overwrite=True))
    with pytest.raises(SgclError):
        pretrain(replace(config, epochs=1, probe="nowhere", overwrite=True))
    assert {path.name: path.read_bytes() for path in Path(config.out).iterdir() if path.is_file()} == before


def test_the_same_command_again_does_nothing(config: PretrainConfig) -> None:
    first = pretrain(config)
    before = (Path(config.out) / "last.pt").stat().st_mtime_ns
    assert pretrain(config).data == first.data
    assert (Path(config.out) / "last.pt").stat().st_mtime_ns == before


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
    whole, parts = weights_of(config.out), weights_of(str(out))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [s["step"] for s in steps_of(str(out))] == list(range(1, 10))


def test_worker_count_does_not_matter(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, epochs=1))
    pretrain(replace(config, epochs=1, workers=2, out=str(tmp_path / "two")))
    one, two = weights_of(config.out), weights_of(str(tmp_path / "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_too_few_patches(config: PretrainConfig) -> None:
    with pytest.raises(TrainingError, match="31 patches, fewer than a batch of 64 .*--batch 15"):
        pretrain(replace(config, batch=64))
    assert not Path(config.out).exists()


def test_coordinates_without_pixels(config: PretrainConfig, make_patches: Make) -> None:
    bare = make_patches("bare", pixels=False)
    with pytest.raises(ArtefactError, match="coordinates without pixels"):
        pretrain(replace(config, patches=str(bare)))


def test_the_rule_for_the_learning_rate(config: PretrainConfig) -> None:
    assert config.peak_lr == 0.015 and replace(config, lr_scale="linear").peak_lr == pytest.approx(0.015 / 16)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda(config: PretrainConfig) -> None:
    assert pretrain(replace(config, device="cuda")).data["steps"] == 9
