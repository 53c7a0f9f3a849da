from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.checkpoint import (
    EncoderCard,
    card_values,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
)
from sgcl_cli.errors import ArtefactError

CARD = EncoderCard("resnet18", 512, 224, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 0.5, 256, pretrain_slides=("x",))


def test_encoder_reads_back_from_folder_file_and_checkpoint(tmp_path: Path) -> None:
    state = {"w": torch.arange(3.0)}
    card = save_encoder(tmp_path, CARD, state)
    assert len(card.sha256) == 64
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        found, weights = load_encoder(path)
        assert found == card
        assert torch.equal(weights["w"], state["w"])
    save_checkpoint(tmp_path / "last.pt", {"encoder": {"card": card_values(CARD), "state": state}})
    assert load_encoder(tmp_path / "last.pt")[0] == CARD


def test_a_checkpoint_of_another_format_is_named(tmp_path: Path) -> None:
    torch.save({"format": "sgcl.checkpoint/9"}, tmp_path / "a.pt")
    torch.save({"state_dict": {}}, tmp_path / "b.pt")
    for name, found in (("a.pt", "'sgcl.checkpoint/9'"), ("b.pt", "None")):
        with pytest.raises(ArtefactError, match=f"not sgcl.checkpoint/1: its format is {found}"):
            load_checkpoint(tmp_path / name)


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_checkpoints_that_would_run_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": "sgcl.checkpoint/1", "x": _Evil()}, tmp_path / "a.pt")
    with pytest.raises(ArtefactError, match="Python objects, which are refused"):
        load_checkpoint(tmp_path / "a.pt")
    assert "executed" not in capsys.readouterr().out


def test_damaged_and_missing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"x": torch.zeros(1000)})
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("cut.pt", "empty.pt"):
        with pytest.raises(ArtefactError, match="is not a checkpoint"):
            load_checkpoint(tmp_path / name)
    with pytest.raises(ArtefactError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(ArtefactError, match="no such encoder"):
        load_encoder(tmp_path / "absent")


def test_weights_that_do_not_belong_to_their_card(tmp_path: Path) -> None:
    save_encoder(tmp_path, CARD, {"w": torch.zeros(3)})
    card = (tmp_path / "encoder.json").read_text()
    save_encoder(tmp_path, CARD, {"w": torch.ones(3)})
    (tmp_path / "encoder.json").write_text(card)
    with pytest.raises(ArtefactError, match="does not belong to its encoder.json"):
        load_encoder(tmp_path)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"no encoder.safetensors .*not finished"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "change", [{"std": [0, 1, 1]}, {"input_size": 0}, {"mean": [0.5, float("inf"), 0]}, {"std": None}, {"mean": [1, 2]}]
)
def test_cards_that_describe_no_encoder(tmp_path: Path, change: dict) -> None:
    save_encoder(tmp_path, CARD, {"w": torch.zeros(3)})
    content = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ArtefactError, match="encoder"):
        load_encoder(tmp_path)
