from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.checkpoint import load_checkpoint
from sgcl_cli.config import PretrainConfig
from sgcl_cli.errors import TrainingError
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain import experiment, pretrain

Make = Callable[..., Path]


def test_banks_that_do_not_fit_are_refused_before_they_are_made(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.engine, "free_bytes", lambda runtime: 1000)
    monkeypatch.setattr(SGCL, "__init__", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(TrainingError, match="need 0.0 GiB, cpu has 0.0 GiB free .*--bank-dtype bfloat16, --ranking v"):
        pretrain(config)


def test_bfloat16_banks_train(config: PretrainConfig) -> None:
    pretrain(replace(config, epochs=2, bank_dtype="bfloat16"))
    assert load_checkpoint(Path(config.out) / "last.pt")["objective"]["bank_v"].dtype == torch.bfloat16


def test_hand_set_counts_that_are_clamped_warn(config: PretrainConfig) -> None:
    reporter = Silent()
    pretrain(replace(config, neighbours=500, dry_run=True), reporter)
    assert any("neighbours" in warning for warning in reporter.warnings)
