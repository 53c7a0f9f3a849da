from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder, save_checkpoint
from sgcl_cli.config import PretrainConfig
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.pretrain import pretrain
from tests.stages.pretrain.outputs import steps_of

Make = Callable[..., Path]


def test_other_settings_are_refused_by_field_and_nothing_is_lost(config: PretrainConfig) -> None:
    pretrain(config)
    before = {p.name: p.read_bytes() for p in Path(config.out).iterdir()}
    with pytest.raises(ConfigError, match="--lr was 0.015, is 0.1; --radius was 3.0, is 2.0"):
        pretrain(replace(config, lr=0.1, radius=2.0))
    assert {p.name: p.read_bytes() for p in Path(config.out).iterdir()} == before
    assert pretrain(replace(config, lr=0.1, overwrite=True)).data["steps"] == 9
    assert steps_of(config.out)[0]["lr"] == 0.1


def test_another_corpus_is_refused_by_what_changed(config: PretrainConfig, make_patches: Make) -> None:
    pretrain(replace(config, epochs=1))
    (Path(config.patches) / "patches" / "a.h5").unlink()
    make_patches(slides={"b": (5, 4), "c": (3, 3)})
    with pytest.raises(
        ConfigError, match="1 slides added, first 'c'; 1 slides gone, first 'a'; 1 slides changed, first 'b'"
    ):
        pretrain(replace(config, epochs=1))


def test_the_checkpoints_of_the_last_epochs_are_kept(config: PretrainConfig) -> None:
    pretrain(replace(config, keep=2))
    kept = sorted(path.name for path in Path(config.out).glob("epoch-*.pt"))
    assert kept == ["epoch-0002.pt", "epoch-0003.pt"]
    assert load_checkpoint(Path(config.out) / kept[0])["position"] == [2, 0, 6]
    assert load_encoder(Path(config.out) / kept[0])[0].epochs == 2
    pretrain(replace(config, epochs=1, overwrite=True))
    assert not list(Path(config.out).glob("epoch-*.pt"))


def test_a_damaged_checkpoint_is_not_taken_for_good(config: PretrainConfig) -> None:
    pretrain(replace(config, epochs=1))
    last = Path(config.out) / "last.pt"
    (Path(config.out) / "run.json").unlink()
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="last.pt is not a checkpoint: damaged"):
        pretrain(replace(config, epochs=1))


@pytest.mark.parametrize(
    "change",
    [
        {"position": ["x", 0, 0]},
        {"position": [10**400, 0, 0]},
        {"config": [1]},
        {"slides": None},
        {"encoder": {"state": 5}},
        {"projector": {}},
        {"objective": {}},
        {"optimiser": {"state": {}, "param_groups": []}},
        {"tally": {"sums": 5}},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_checkpoint_that_lacks_something_or_has_other_shapes(
    config: PretrainConfig, change: dict[str, object]
) -> None:
    pretrain(replace(config, epochs=1))
    out = Path(config.out)
    (out / "run.json").unlink()
    content = {**load_checkpoint(out / "last.pt"), **change}
    content.pop("format")
    save_checkpoint(out / "last.pt", content)
    with pytest.raises(ArtefactError, match="last.pt") as caught:
        pretrain(replace(config, epochs=1))
    assert "\n" not in caught.value.message and "--overwrite" in caught.value.hint
