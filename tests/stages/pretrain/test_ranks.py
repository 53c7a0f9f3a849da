"""Pretraining in two processes as torchrun starts them, on the CPU with gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder

Make = Callable[..., Path]
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(900)  # processes that share cores with others
OPTIONS = ["--epochs", "2", "--batch", "8", "--negatives", "16", "--threads", "1", "--device", "cpu"]


def _start(count: int, patches: Path, out: Path, *more: str, main: list[str] | None = None) -> list[subprocess.Popen]:
    """As torchrun starts them: the same command in every process, told apart by the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        *(main or ["-m", "sgcl_cli"]),
        "pretrain",
        str(patches),
        "--out",
        str(out),
        *OPTIONS,
        *more,
    ]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **{k: str(v) for k, v in shared.items()}, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def _finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    spoken = [process.communicate(timeout=800) for process in processes]
    return [(process.returncode, *said) for process, said in zip(processes, spoken, strict=True)]


def _steps(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


# An encoder without batch norm, whose statistics would be each process's own: what remains must be the same.
PLAIN = """
import sys, torch
from torch import nn
from sgcl_cli.nets.encoders import ENCODERS
class Plain(nn.Module):
    embedding_size = 24
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 5, 3)
    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))
ENCODERS["resnet18"] = Plain
from sgcl_cli.cli.app import main
main()
"""


@pytest.fixture
def main(tmp_path: Path) -> list[str]:
    (tmp_path / "plain.py").write_text(PLAIN)
    return [str(tmp_path / "plain.py")]


def test_two_processes_train_the_weights_that_one_does(make_patches: Make, tmp_path: Path, main: list[str]) -> None:
    patches = make_patches()
    ends = [_finish(_start(count, patches, tmp_path / str(count), main=main)) for count in (1, 2)]
    assert [end[0] for run in ends for end in run] == [0, 0, 0], ends
    (one, alone), (two, both) = (load_encoder(tmp_path / name) for name in ("1", "2"))
    assert one.run_id == two.run_id
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-4, atol=1e-6)
    banks = [load_checkpoint(tmp_path / name / "last.pt")["objective"] for name in ("1", "2")]
    torch.testing.assert_close(banks[1]["bank_v"], banks[0]["bank_v"], rtol=1e-4, atol=1e-5)
    assert torch.equal(banks[1]["labels"], banks[0]["labels"])
    for single, joined in zip(_steps(tmp_path / "1"), _steps(tmp_path / "2"), strict=True):
        assert joined["loss"] == pytest.approx(single["loss"], rel=1e-4)
        assert joined["spatial_positives"] == pytest.approx(single["spatial_positives"])
    assert "images per second" in ends[1][0][1] and ends[1][1][1:] == ("", "")


def test_a_signal_to_one_stops_both_and_another_number_goes_on(
    make_patches: Make, tmp_path: Path, main: list[str]
) -> None:
    patches, out = make_patches(), tmp_path / "run"
    long = ["--epochs", "12", "--checkpoint-minutes", "0.0001"]
    processes = _start(2, patches, out, *long, main=main)
    deadline = time.monotonic() + 600
    while not (out / "last.pt").exists() and time.monotonic() < deadline and processes[0].poll() is None:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)  # one is told, both stop
    ends = _finish(processes)
    assert [end[0] for end in ends] == [143, 143], ends
    assert ends[0][2].count("run the same command again") == 1 and "interrupted" not in ends[1][2]
    reached = load_checkpoint(out / "last.pt")["position"][2]
    assert 0 < reached < 36 and not (out / "run.json").exists()
    assert _steps(out)[-1]["step"] == reached
    code, said, _ = _finish(_start(1, patches, out, *long, main=main))[0]
    assert code == 0 and "12, 36 steps" in said
    assert [step["step"] for step in _steps(out)] == list(range(1, 37))


def test_an_error_of_one_process_is_said_once_and_ends_both(make_patches: Make, tmp_path: Path) -> None:
    patches = make_patches(slides={"a": (4, 2)})
    with h5py.File(patches / "patches" / "a.h5", "r+") as file:
        start = int(file["jpeg_offsets"][3])
        file["jpeg"][start : start + 50] = 0
    ends = _finish(_start(2, patches, tmp_path / "run"))
    assert [end[0] for end in ends] == [1, 1]
    assert sorted(end[2].count("error: patch 3 of") for end in ends) == [0, 1]
    assert sum("error:" in end[2] for end in ends) == 1
