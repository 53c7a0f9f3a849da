"""Training that starts from the weights of another encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard, load_checkpoint, load_encoder, save_encoder
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError, Interrupted
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.pretrain import pretrain


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run whose encoder has seen another slide."""
    torch.manual_seed(7)
    card = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32, pretrain_slides=("elsewhere", "identity of a"))
    save_encoder(tmp_path / "earlier", card, ENCODERS["resnet18"]().state_dict())
    return tmp_path / "earlier"


def test_training_starts_from_given_weights(training: PretrainConfig, earlier: Path) -> None:
    pretrain(replace(training, init=str(earlier), lr=1e-12))
    given, found = load_encoder(earlier), load_encoder(training.out)
    for name, value in given[1].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-6)
    run = store.read_json(Path(training.out) / "run.json")
    assert run["inputs"]["init"] == given[0].sha256 and run["config"]["init"] == str(earlier)
    assert found[0].pretrain_slides == ("identity of a", "identity of b", "elsewhere")
    assert load_checkpoint(Path(training.out) / "last.pt")["config"]["init"] == given[0].sha256


def test_other_initial_weights_are_another_run(
    training: PretrainConfig, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Any, batch: Any, position: Any) -> None:
        self.state.position = position
        self.save()
        raise Interrupted(15)

    with monkeypatch.context() as patched:
        patched.setattr("sgcl_cli.stages.pretrain.training.Pretraining.stepped", stopped)
        with pytest.raises(Interrupted):
            pretrain(replace(training, init=str(earlier)))
    card, state = load_encoder(earlier)
    moved = save_encoder(earlier, card, {**state, "bn1.bias": state["bn1.bias"] + 1})
    with pytest.raises(ConfigError, match=f"--init was {card.sha256}, is {moved.sha256}"):
        pretrain(replace(training, init=str(earlier)))
    with pytest.raises(ConfigError, match=f"--init was {card.sha256}, is absent"):
        pretrain(training)


def test_initial_weights_that_do_not_fit(training: PretrainConfig, earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="the weights do not fit resnet34: .*earlier lacks 80 of its 180 tensors"):
        pretrain(replace(training, encoder="resnet34", init=str(earlier)))
    with pytest.raises(ArtefactError, match="no such encoder: .*absent.pth"):
        pretrain(replace(training, init=str(tmp_path / "absent.pth")))
    assert not Path(training.out).exists()
