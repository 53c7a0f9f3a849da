from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.fit import Position
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.pretrain.state import epochs_kept, keep_epoch
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]


def saved(training: Pretraining) -> Pretraining:
    state = training.state
    state.position, state.best = Position(1, 2, 5), 0.75
    state.tally.add({"total": 3.0})
    with torch.no_grad():
        next(state.networks.encoder.parameters()).fill_(0.5)
    training.checkpoints.save(state, 12.5)
    return training


def test_a_run_goes_on_from_its_checkpoint(tiny_config: PretrainConfig, make_training: Make) -> None:
    saved(make_training(tiny_config))
    training = make_training(tiny_config)
    assert training.checkpoints.resume(training.state)
    state = training.state
    assert (state.position, state.best, state.seconds) == (Position(1, 2, 5), 0.75, 12.5)
    assert state.tally.means() == {"total": 3.0}
    assert bool((next(state.networks.encoder.parameters()) == 0.5).all())


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    assert not training.checkpoints.resume(training.state)
    assert training.state.position == Position()


def test_a_checkpoint_of_other_settings_is_refused(tiny_config: PretrainConfig, make_training: Make) -> None:
    saved(make_training(tiny_config))
    training = make_training(replace(tiny_config, lr=0.5))
    with pytest.raises(ConfigError, match="holds a run under other settings: .*lr") as caught:
        training.checkpoints.resume(training.state)
    assert caught.value.hint == "use the same settings to go on, another --out, or --overwrite to start again"
    assert training.state.position == Position()


def test_a_checkpoint_of_other_patches_is_refused_by_what_changed(
    tiny_config: PretrainConfig, make_training: Make, make_patches: Callable[..., Path]
) -> None:
    saved(make_training(tiny_config))
    other = make_patches("other", {"a": (4, 5), "c": (4, 3)})
    training = make_training(replace(tiny_config, patches=str(other)))
    with pytest.raises(ConfigError) as caught:
        training.checkpoints.resume(training.state)
    said = (
        "holds a run on other patches: 1 slides added, first 'c'; 1 slides gone, first 'b'; 1 slides changed, first 'a'"
    )
    assert caught.value.message.endswith(said)


def test_a_checkpoint_with_other_shapes_is_refused(tiny_config: PretrainConfig, make_training: Make) -> None:
    saved(make_training(tiny_config))
    training = make_training(tiny_config)
    training.state.networks.encoder.conv1 = torch.nn.Conv2d(3, 8, 5)  # type: ignore[assignment]
    with pytest.raises(ArtefactError, match="last.pt does not hold a run that can go on: ") as caught:
        training.checkpoints.resume(training.state)
    assert "--overwrite to start again" in str(caught.value.hint)


def test_a_checkpoint_is_due_after_its_minutes(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    checkpoints = make_training(replace(tiny_config, checkpoint_minutes=2.0)).checkpoints
    checkpoints.start_clock()
    monkeypatch.setattr(time, "monotonic", lambda: 219.0)
    assert not checkpoints.due
    monkeypatch.setattr(time, "monotonic", lambda: 221.0)
    assert checkpoints.due


def test_the_card_says_what_the_encoder_has_seen(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = saved(make_training(tiny_config))
    card = training.checkpoints.card(training.state)
    assert (card.name, card.run_id, card.mpp, card.patch_size, card.embedding_size) == ("resnet18", "run", 0.5, 32, 16)
    assert card.epochs == pytest.approx(5 / 3) and card.pretrain_slides == ("identity of a", "identity of b")


def test_the_newest_epochs_are_kept_in_order_of_their_numbers(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    for epoch in (9, 10, 10_000, 99_999):
        last.write_text(str(epoch))
        keep_epoch(last, epoch, 3)
        last.unlink()
    (tmp_path / "epoch-best.pt").touch()
    assert [path.name for path in epochs_kept(tmp_path)] == ["epoch-0010.pt", "epoch-10000.pt", "epoch-99999.pt"]
    assert [path.read_text() for path in epochs_kept(tmp_path)] == ["10", "10000", "99999"]
