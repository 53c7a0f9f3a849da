from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import Position
from sgcl_cli.stages.pretrain.finish import close, headline
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]


@pytest.fixture
def closed(tiny_config: PretrainConfig, make_training: Make) -> tuple[Pretraining, Outcome]:
    """A run said to have taken two epochs and four seconds."""
    training = make_training(tiny_config)
    training.state.position = Position(2, 0, 6)
    training.state.epoch_means = {"anchor": 1.25, "total": 2.5}
    return training, close(training, RunRecord("pretrain", tiny_config), seconds=4.0)


def test_headline_is_the_closing_table() -> None:
    data = {
        "patches": 1234567,
        "slides": 12,
        "epochs": 3,
        "steps": 4321,
        "last_epoch": {"loss": {"anchor": 1.23456, "total": None}},
        "images_per_second": 99.96,
    }
    assert headline(Path("run"), data) == [
        ("patches", "1,234,567 of 12 slides"),
        ("epochs", "3, 4,321 steps"),
        ("loss, last epoch", "anchor 1.235"),
        ("images per second", "100.0"),
        ("encoder", str(Path("run") / "encoder.safetensors")),
    ]


def test_the_outcome_counts_images_over_the_seconds_of_training(closed: tuple[Pretraining, Outcome]) -> None:
    data = closed[1].data
    assert data["images_per_second"] == 6 * 8 / 4
    assert (data["patches"], data["slides"], data["epochs"], data["steps"]) == (31, 2, 2, 6)
    assert data["last_epoch"] == {"loss": {"anchor": 1.25, "total": 2.5}} and data["probe"] is None


def test_the_encoder_is_exported_with_its_card(closed: tuple[Pretraining, Outcome]) -> None:
    training, _ = closed
    stored = load_file(training.experiment.out / "encoder.safetensors")
    weights = training.state.networks.encoder.state_dict()
    assert stored.keys() == weights.keys()
    assert (stored["conv1.weight"] == weights["conv1.weight"].numpy()).all()
    assert json.loads((training.experiment.out / "encoder.json").read_text())["epochs"] == 2


def test_slides_are_listed_with_what_the_encoder_has_seen(closed: tuple[Pretraining, Outcome]) -> None:
    with (closed[0].experiment.out / "slides.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["slide_id", "patches", "identity", "patches_id", "probe"],
            ["a", "16", "identity of a", "a-4x4-32-0", "0"],
            ["b", "15", "identity of b", "b-5x3-32-0", "0"],
        ]


def test_run_json_records_what_was_returned(closed: tuple[Pretraining, Outcome]) -> None:
    training, outcome = closed
    run = json.loads((training.experiment.out / "run.json").read_text())
    assert run["id"] == "run" and run["inputs"] == {"patches": training.experiment.index.id}
    assert run["result"]["encoder_sha256"] == outcome.data["encoder_sha256"] and run["result"]["steps"] == 6
