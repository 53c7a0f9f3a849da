from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import NotFiniteError, Position
from sgcl_cli.errors import TrainingError
from sgcl_cli.stages.pretrain.failure import not_finite
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]
ERROR = NotFiniteError(float("nan"), Position(1, 1, 4))


def failure(training: Pretraining, last: Path) -> TrainingError:
    found = not_finite(ERROR, training.experiment, training.loader, last=last)
    assert isinstance(found, TrainingError)
    return found


def test_the_batch_of_the_failed_step_is_saved(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    failure(training, Path("last.pt"))
    order = training.experiment.order(1, 1)[0]
    with np.load(Path(tiny_config.out) / "failed_batch.npz", allow_pickle=False) as saved:
        assert saved["index"].tolist() == order.tolist()
        assert saved["slide_id"].tolist() == ["a" if i < 16 else "b" for i in order]
        assert (int(saved["step"]), int(saved["epoch"])) == (4, 1)
        slide, row = ("a", order[0]) if order[0] < 16 else ("b", order[0] - 16)
        stored = PatchFile.open(Path(tiny_config.patches) / "patches" / f"{slide}.h5").read(int(row))
        expected = np.asarray(Image.open(io.BytesIO(stored)))
        assert np.abs(saved["patches"][0].astype(int) - expected).max() <= 3


def test_the_message_says_where_and_what_to_try(tiny_config: PretrainConfig, make_training: Make) -> None:
    error = failure(make_training(tiny_config), Path("absent") / "last.pt")
    assert error.message == "the loss is nan at step 4 (epoch 2)"
    batch = Path(tiny_config.out) / "failed_batch.npz"
    assert error.hint == (
        f"lower --lr, or use --precision fp32; no checkpoint was written yet; the batch is in {batch}"
    )


def test_the_last_checkpoint_is_named_where_there_is_one(
    tiny_config: PretrainConfig, make_training: Make, tmp_path: Path
) -> None:
    last = tmp_path / "last.pt"
    last.touch()
    assert f"; the last good checkpoint is {last}; " in str(failure(make_training(tiny_config), last).hint)


def test_a_dry_run_saves_no_batch(tiny_config: PretrainConfig, make_training: Make) -> None:
    error = failure(make_training(replace(tiny_config, dry_run=True)), Path("last.pt"))
    assert str(error.hint).endswith("no checkpoint was written yet")
    assert not Path(tiny_config.out).exists()
    with pytest.raises(TrainingError, match="at step 4"):
        raise error
