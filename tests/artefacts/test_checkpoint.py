from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sgcl_cli.artefacts.checkpoint import (
    EncoderCard,
    card_values,
    load_checkpoint,
    load_encoder,
    read_weights,
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
    assert load_encoder(tmp_path / "last.pt")[0] == card, "the sha256 is that of the exported file"


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
    with pytest.raises(ArtefactError, match="no such file"):
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
    "change",
    [
        {"std": [0, 1, 1]},
        {"input_size": 0},
        {"mean": [0.5, float("inf"), 0]},
        {"std": None},
        {"mean": [1, 2]},
        {"resize": 0},
        {"interpolation": "box"},
    ],
)
def test_cards_that_describe_no_encoder(tmp_path: Path, change: dict) -> None:
    save_encoder(tmp_path, CARD, {"w": torch.zeros(3)})
    content = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ArtefactError, match="encoder"):
        load_encoder(tmp_path)


def test_cards_of_earlier_releases_read_with_defaults(tmp_path: Path) -> None:
    save_encoder(tmp_path, CARD, {"w": torch.zeros(3)})
    content = json.loads((tmp_path / "encoder.json").read_text())
    for name in ("resize", "interpolation", "layer", "pool"):
        del content[name]
    (tmp_path / "encoder.json").write_text(json.dumps(content))
    card = load_encoder(tmp_path)[0]
    assert (card.resize, card.interpolation, card.layer, card.pool) == (None, None, None, "auto")


def test_weights_of_ours_carry_their_card_and_the_exported_sha256(tmp_path: Path) -> None:
    card = save_encoder(tmp_path, CARD, {"w": torch.ones(3)})
    save_checkpoint(tmp_path / "last.pt", {"encoder": {"card": card_values(CARD), "state": {"w": torch.ones(3)}}})
    for path in (tmp_path, tmp_path / "encoder.safetensors", tmp_path / "last.pt"):
        weights = read_weights(path)
        assert (weights.card, weights.sha256) == (card, card.sha256)
        assert torch.equal(weights.groups[""]["w"], torch.ones(3))


def test_weights_of_others_are_looked_for_in_their_containers(tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    torch.save(
        {"student": {"w": torch.zeros(1)}, "teacher": {"w": torch.ones(1)}, "epoch": 3, "x": torch.ones(2)}, path
    )
    weights = read_weights(path)
    assert weights.card is None and weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: list(group) for name, group in weights.groups.items()} == {"": ["x"], "teacher": ["w"]}
    (tmp_path / "plain.safetensors").write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    assert list(read_weights(tmp_path / "plain.safetensors").groups[""]) == ["w"]
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    assert read_weights(tmp_path / "list.pt").groups == {}


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": _Evil()}, tmp_path / "evil.pth")
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save({"w": torch.ones(99)})[:50])
    save_checkpoint(tmp_path / "run.pt", {"position": [0, 0, 0]})
    for name, message in (
        ("evil.pth", "Python objects, which are refused .*state_dict"),
        ("cut.safetensors", "cut.safetensors is damaged"),
        ("absent.pth", "no such encoder"),
        ("run.pt", "run.pt holds no encoder"),
    ):
        with pytest.raises(ArtefactError, match=message):
            read_weights(tmp_path / name)


def test_an_exported_file_without_its_card_says_how_to_use_it(tmp_path: Path) -> None:
    (tmp_path / "alone.safetensors").write_bytes(safetensors.torch.save({"w": torch.ones(1)}))
    with pytest.raises(ArtefactError, match=r"no encoder.json beside it .*--arch"):
        load_encoder(tmp_path / "alone.safetensors")


def test_an_encoder_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"b\xe9d")
    saved = save_encoder(
        folder, EncoderCard("resnet18", 4, 28, (0.5,) * 3, (0.2,) * 3, 0.5, 32), {"w": torch.ones(3, 4)}
    )
    card, state = load_encoder(folder)
    assert card == saved and torch.equal(state["w"], torch.ones(3, 4))
