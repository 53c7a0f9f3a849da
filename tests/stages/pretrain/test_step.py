from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.checkpoint import load_checkpoint
from sgcl_cli.config import PretrainConfig
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.stages.pretrain import pretrain
from tests.stages.pretrain.outputs import steps_of, weights_of

Make = Callable[..., Path]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_networks_train_alike_and_leave_the_same_names(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, epochs=1))
    pretrain(replace(config, epochs=1, compile=True, out=str(tmp_path / "compiled")))
    plain, compiled = weights_of(config.out), weights_of(str(tmp_path / "compiled"))
    assert plain.keys() == compiled.keys()
    first, second = (steps_of(out)[0]["loss"] for out in (config.out, str(tmp_path / "compiled")))
    assert second == pytest.approx(first, rel=1e-4)


def test_terms_can_be_left_out(config: PretrainConfig, tmp_path: Path) -> None:
    out = str(tmp_path / "npid")
    pretrain(replace(config, epochs=1, weight_spatial=0.0, weight_inner=0.0, out=out))
    losses = [step["loss"] for step in steps_of(out)]
    assert all(loss["spatial"] == loss["inner"] == 0 and loss["total"] == loss["self"] > 0 for loss in losses)


def test_moco_takes_keys_from_the_network_that_follows(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    commit = SGCL.commit

    def watched(self: SGCL, index: torch.Tensor, new: Embedded, **how: float) -> None:
        commit(self, index, new, **how)
        queued = bool(torch.isin(index, self.base.queue.index_Q).all())
        seen.append((queued, torch.allclose(self.bank_v[index], new.v, atol=1e-6), new.v.requires_grad))

    monkeypatch.setattr(SGCL, "commit", watched)
    pretrain(replace(config, base="moco", epochs=1, queue=16))
    assert seen and all(queued and same and not gradient for queued, same, gradient in seen)
    checkpoint = load_checkpoint(Path(config.out) / "last.pt")
    query, key = checkpoint["encoder"]["state"]["conv1.weight"], checkpoint["keys"]["encoder.conv1.weight"]
    assert not torch.equal(query, key)
