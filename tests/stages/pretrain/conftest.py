"""A training run on a few synthetic patches, built but not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import nn

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.ranks import Ranks
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.progress import Silent
from sgcl_cli.stages.encoders import open_start
from sgcl_cli.stages.pretrain.experiment import Experiment, first_state, plan
from sgcl_cli.stages.pretrain.training import Pretraining
from sgcl_cli.stages.pretrain.warnings import Warnings

MakeExperiment = Callable[..., Experiment]
MakeTraining = Callable[[PretrainConfig], Pretraining]


class TinyEncoder(nn.Module):
    """An encoder with batch norm that costs nothing."""

    embedding_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, 3, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.conv1(x))).mean((2, 3))


@pytest.fixture
def tiny_config(make_patches: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """Settings for 31 patches of 32 pixels on slides a (16) and b (15): two epochs of three steps."""
    monkeypatch.setitem(ENCODERS, "resnet18", TinyEncoder)
    return PretrainConfig(
        patches=str(make_patches()),
        out=str(tmp_path / "run"),
        epochs=2,
        batch=8,
        negatives=16,
        threads=1,
        workers=0,
        device="cpu",
    )


@pytest.fixture
def make_experiment() -> MakeExperiment:
    """A function that plans the experiment of some settings."""

    def make(config: PretrainConfig, ranks: Ranks | None = None, warnings: Warnings | None = None) -> Experiment:
        return plan(
            config,
            PatchIndex.open(config.patches, pixels=True),
            open_start(config.encoder, config.init),
            run_id="run",
            runtime=engine.start("cpu", config.precision, config.threads),
            ranks=ranks or Ranks(),
            warnings=warnings or Warnings(Silent()),
        )

    return make


@pytest.fixture
def make_training(make_experiment: MakeExperiment) -> Iterator[MakeTraining]:
    """A function that builds the training of some settings; its processes end with the test."""
    with ExitStack() as opened:

        def make(config: PretrainConfig) -> Pretraining:
            reporter = Silent()
            warnings = Warnings(reporter)
            experiment = make_experiment(config, warnings=warnings)
            loader = opened.enter_context(experiment.loader())
            state = first_state(experiment, reporter)
            training = Pretraining(experiment, state, loader, reporter=reporter, warnings=warnings)
            training.connect()
            return training

        yield make
