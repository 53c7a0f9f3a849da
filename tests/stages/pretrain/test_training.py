from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.feed import Fed
from sgcl_cli.engine.fit import Position
from sgcl_cli.errors import Interrupted, TrainingError
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]


def lines(training: Pretraining) -> list[dict[str, Any]]:
    return [json.loads(line) for line in training.log.path.read_text().splitlines()]


def test_training_runs_to_the_last_epoch(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    assert training.train() > 0
    assert training.state.position == Position(2, 0, 6)
    kinds = [next(kind for kind in ("loss", "summary", "clusters") if kind in line) for line in lines(training)]
    assert kinds == ["loss"] * 3 + ["summary", "clusters"] + ["loss"] * 3 + ["summary"]
    steps = [line for line in lines(training) if "loss" in line]
    assert [line["epoch"] for line in steps] == [0.333333, 0.666667, 1.0, 1.333333, 1.666667, 2.0]
    assert (Path(tiny_config.out) / "last.pt").exists()


def test_an_epochs_mean_is_that_of_its_steps(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    training.train()
    totals = [line["loss"]["total"] for line in lines(training) if "loss" in line][3:]
    assert training.state.epoch_means["total"] == pytest.approx(sum(totals) / 3, rel=1e-4)


def test_batches_go_on_within_an_epoch(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    whole = [fed.index.tolist() for fed in training.batches(1, 0)]
    assert whole == [batch.tolist() for batch in training.experiment.order(1)]
    assert [fed.index.tolist() for fed in training.batches(1, 2)] == whole[2:]


def test_a_signal_stops_after_the_step_and_the_run_goes_on(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = Pretraining.stepped

    def stopping(self: Pretraining, batch: Fed, position: Position) -> None:
        stepped(self, batch, position)
        if position.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Pretraining, "stepped", stopping)
    with pytest.raises(Interrupted) as caught:
        make_training(tiny_config).train()
    assert caught.value.signum == signal.SIGTERM
    monkeypatch.setattr(Pretraining, "stepped", stepped)
    training = make_training(tiny_config)
    training.resume()
    assert training.state.position == Position(0, 2, 2)
    training.train()
    assert [line["step"] for line in lines(training) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_ends_training(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    with torch.no_grad():
        next(training.state.networks.projector.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0") as caught:
        training.train()
    assert "no checkpoint was written yet; the batch is in" in str(caught.value.hint)


def test_banks_may_start_as_the_untrained_networks_embed_the_patches(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[torch.Tensor] = []
    loss = Pretraining.loss

    def first_loss(self: Pretraining, batch: Fed, position: Position) -> torch.Tensor:
        filled.append(self.state.objective.state_dict()["bank_v"].clone())
        return loss(self, batch, position)

    monkeypatch.setattr(Pretraining, "loss", first_loss)
    training = make_training(replace(tiny_config, bank_start="encoded"))
    random = training.state.objective.state_dict()["bank_v"].clone()
    training.train()
    assert bool((filled[0] != random).any(dim=1).all())
