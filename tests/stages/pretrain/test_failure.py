from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.checkpoint import load_checkpoint
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.loader import StoredPatches, epoch_order
from sgcl_cli.errors import TrainingError
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain import training as stage

Make = Callable[..., Path]


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.Pretraining.loss
    monkeypatch.setattr(
        stage.Pretraining, "loss", lambda self, b, p: whole(self, b, p) * (float("nan") if p.step == 4 else 1)
    )
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4 .*last good checkpoint is .*last.pt"):
        pretrain(config)
    assert load_checkpoint(Path(config.out) / "last.pt")["position"] == [1, 0, 3]
    with np.load(Path(config.out) / "failed_batch.npz") as kept:
        order = epoch_order(31, 8, config.seed, 1)[1]
        assert (int(kept["step"]), int(kept["epoch"])) == (4, 1) and np.array_equal(kept["index"], order)
        read = StoredPatches(PatchIndex.open(config.patches))
        assert np.array_equal(kept["patches"], np.stack([read(int(i)) for i in order]))
        assert set(kept["slide_id"]) <= {"a", "b"}
