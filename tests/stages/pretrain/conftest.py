from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sgcl_cli.config import PretrainConfig
from sgcl_cli.nets.encoders import ENCODERS

Make = Callable[..., Path]


class Small(nn.Module):
    """An encoder with batch norm that costs nothing."""

    embedding_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, 3, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.conv1(x))).mean((2, 3))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that costs nothing stands in for ResNet-18, in this process."""
    monkeypatch.setitem(ENCODERS, "resnet18", Small)


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib cannot be imported, and no module that imports it has been."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for name in [name for name in sys.modules if name.startswith("sgcl_cli.report")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def config(small: None, make_patches: Make, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        patches=str(make_patches()), out=str(tmp_path / "run"), epochs=3, batch=8, negatives=16, threads=1, device="cpu"
    )
