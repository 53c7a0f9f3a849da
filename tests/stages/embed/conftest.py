from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.nets.encoders import ENCODERS

Make = Callable[..., Path]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32, pretrain_slides=("identity of a",))
    save_encoder(tmp_path / "encoder", card, ENCODERS["resnet18"]().state_dict())
    return tmp_path / "encoder"


@pytest.fixture
def config(make_patches: Make, encoder: Path, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(
        patches=str(make_patches()), encoder=str(encoder), out=str(tmp_path / "features"), dtype="float32", threads=1
    )
