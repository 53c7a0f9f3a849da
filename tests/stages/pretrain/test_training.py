from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.artefacts import store
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.errors import Interrupted
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain import training as stage
from tests.stages.pretrain.outputs import steps_of, weights_of

Make = Callable[..., Path]


@pytest.mark.parametrize(("base", "start"), [("npid", "random"), ("moco", "encoded")])
def test_stopped_after_any_step_and_resumed_equals_uninterrupted_to_the_bit(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, start: str
) -> None:
    config = replace(config, base=base, bank_start=start)
    pretrain(config)
    broken = replace(config, out=str(tmp_path / "broken"))
    stepped = stage.Pretraining.stepped

    def interrupted(self: stage.Pretraining, batch: object, position: Position) -> None:
        stepped(self, batch, position)  # type: ignore[arg-type]
        if position.step in (2, 3, 5, 7):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stage.Pretraining, "stepped", interrupted)
    for _ in range(4):
        with pytest.raises(Interrupted) as stop:
            pretrain(broken)
        assert stop.value.signum == signal.SIGTERM
    pretrain(broken)
    whole, parts = weights_of(config.out), weights_of(broken.out)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [s["loss"] for s in steps_of(config.out)] == [s["loss"] for s in steps_of(broken.out)]


def test_banks_may_start_as_what_the_untrained_networks_make_of_the_patches(config: PretrainConfig) -> None:
    similarity = {}
    for start in ("random", "encoded"):
        run = replace(config, epochs=1, bank_start=start, out=f"{config.out}-{start}")
        pretrain(run)
        similarity[start] = steps_of(run.out)[0]["positive_similarity"]
    assert abs(similarity["random"]) < 0.2 < similarity["encoded"]


def test_a_line_says_how_long_its_data_were_waited_for(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    into = StoredPatches.into

    def slow(self: StoredPatches, i: int, pixels: np.ndarray) -> None:
        time.sleep(0.01)
        into(self, i, pixels)

    monkeypatch.setattr(StoredPatches, "into", slow)
    pretrain(replace(config, epochs=1))
    assert all(0.08 <= step["data_wait"] < 5 for step in steps_of(config.out))
    assert all(step["host_seconds"] > 0 for step in steps_of(config.out))


def test_a_run_that_learned_nothing_says_so(config: PretrainConfig) -> None:
    reporter = Silent()
    outcome = pretrain(
        replace(config, epochs=1, lr=1e-9, weight_spatial=0.0, weight_inner=0.0, bank_start="random"), reporter
    )
    (warning,) = outcome.warnings
    assert warning.startswith("the self term is at chance or above it") and "where ln(31) = 3.43" in warning
    assert store.read_json(Path(config.out) / "run.json")["result"]["warnings"] == reporter.warnings == [warning]
