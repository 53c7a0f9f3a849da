from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sgcl_cli.errors import ConfigError
from sgcl_cli.report.board import Board, scalars


def test_scalars_are_the_numbers_by_their_paths() -> None:
    record = {"step": 5, "epoch": 0.5, "lr": 1, "loss": {"total": 2.5, "parts": {"step": 3}}, "note": "a", "list": [1]}
    assert list(scalars(record)) == [("lr", 1.0), ("loss/total", 2.5), ("loss/parts/step", 3.0)]


def test_scalars_pass_over_nulls_and_truth_values() -> None:
    assert list(scalars({"probe": None, "amp": True, "loss": {"total": None}})) == []


def test_a_board_without_tensorboard_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="--tensorboard needs TensorBoard, which is not installed") as caught:
        Board(tmp_path / "events", 0)
    assert caught.value.hint == "pip install 'sgcl[tensorboard]', or leave it out"
    assert not (tmp_path / "events").exists()


def test_a_board_adds_each_number_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, *arguments: object) -> None:
            written.append(arguments)

        def flush(self) -> None:
            written.append(("flush",))

        def close(self) -> None:
            written.append(("close",))

    stand_in = type(sys)("torch.utils.tensorboard")
    monkeypatch.setattr(stand_in, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    board = Board(tmp_path, 10)
    board.write({"step": 11, "loss": {"total": 0.25}}, 11)
    board.flush()
    board.close()
    assert written == [(str(tmp_path), 11), ("loss/total", 0.25, 11), ("flush",), ("close",)]
