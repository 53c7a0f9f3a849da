"""Three slides with masks, and an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.nets.encoders import ENCODERS
from tests.stages.evaluate.dense.made import SIDE, write_slide


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for slide_id, boundary in (("a", 40), ("b", 70), ("c", 90)):
        write_slide(folder, slide_id, boundary)
    torch.manual_seed(1)
    card = EncoderCard("resnet18", 512, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, SIDE)
    save_encoder(folder / "run", card, ENCODERS["resnet18"]().state_dict())
    return folder
