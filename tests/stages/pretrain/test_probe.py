from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.pretrain import probe as stage
from sgcl_cli.stages.pretrain.probe import Probe

Make = Callable[..., Path]
RUNTIME = Runtime(torch.device("cpu"), None)
CARD = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32)


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(patches=str(make_patches()), out=str(tmp_path / "run"), probe="labels")


def _probe(config: PretrainConfig) -> Probe:
    return Probe(config, PatchIndex.open(config.patches, pixels=True), RUNTIME, 28)


class _Roughness:
    """In the place of an encoder: how much neighbouring pixels differ, which is what the labels of the patches are."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, patches: torch.Tensor) -> np.ndarray:
        steps = patches.float().diff(dim=2).ne(0).float().mean(dim=(1, 2, 3))
        return torch.stack([steps, torch.full_like(steps, 0.2)], 1).numpy()


def _encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return ENCODERS["resnet18"]()


def test_the_patches_own_labels_are_judged_by_the_other_slide(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "FrozenEncoder", _Roughness)
    probe = _probe(config)
    asked = probe.labelled
    assert asked.slides == ("identity of a", "identity of b") and asked.slide_ids == ("a", "b")
    assert asked.names == ("fine", "coarse") and len(asked.rows) == 31 and asked.groups == 2
    score = probe.score(CARD, torch.nn.Identity())
    assert score["patches"] == 31 and score["slides"] == 2 and score["chance"] == 0.5
    assert score["balanced_accuracy"] == 1.0


def test_labels_that_mean_nothing_score_at_chance(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "FrozenEncoder", _Roughness)
    probe = _probe(config)
    shuffled = np.random.default_rng(1).permutation(probe.labelled.label)
    monkeypatch.setattr(probe, "labelled", replace(probe.labelled, label=shuffled))
    assert 0.25 < probe.score(CARD, torch.nn.Identity())["balanced_accuracy"] < 0.75


def test_patients_from_a_table(config: PretrainConfig, make_patches: Make, tmp_path: Path) -> None:
    patches = make_patches("three", slides={"a": (4, 4), "b": (4, 4), "c": (4, 4)})
    table = tmp_path / "patients.csv"
    table.write_text("slide_id,patient_id\na,p\nc,p\n")
    probe = _probe(replace(config, patches=str(patches), probe_groups=str(table)))
    group = probe.labelled.group
    assert probe.labelled.unit == "patient" and probe.labelled.groups == 2
    assert group[0] == group[-1] != group[20]
    table.write_text("slide_id,patient_id\na,p\nb,p\nc,p\n")
    with pytest.raises(LabelError, match="all labelled patches are of one patient"):
        _probe(replace(config, patches=str(patches), probe_groups=str(table)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three dark and three light images in class folders."""
    from PIL import Image

    folder = tmp_path / "images"
    for name, value in (("dark", 30), ("light", 220)):
        (folder / name).mkdir(parents=True)
        for n in range(3):
            pixels = np.random.default_rng(n).integers(value - 20, value + 20, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n}.png")
    return folder


def test_a_folder_of_class_folders(config: PretrainConfig, images: Path) -> None:
    probe = _probe(replace(config, probe=str(images)))
    assert probe.labelled.unit == "image" and probe.labelled.slide_ids == ()
    score = probe.score(CARD, _encoder())
    assert score["balanced_accuracy"] == 1.0 and score["images"] == 6


def test_an_unreadable_image_is_found_before_training(config: PretrainConfig, images: Path) -> None:
    damaged = images / "light" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(ArtefactError, match=r"light/1\.png is not a readable image: .*remove it"):
        _probe(replace(config, probe=str(images)))


def test_an_unreadable_patch_of_another_folder_is_found_before_training(
    config: PretrainConfig, make_patches: Make
) -> None:
    other = make_patches("other", slides={"x": (4, 4), "y": (4, 4)}, seed=3)
    with h5py.File(other / "patches" / "y.h5", "r+") as file:
        first, second = file["jpeg_offsets"][2:4]
        file["jpeg"][first:second] = 0
    with pytest.raises(ArtefactError, match=r"y\.h5"):
        _probe(replace(config, probe=str(other)))


def test_a_folder_of_other_labelled_patches(config: PretrainConfig, make_patches: Make) -> None:
    other = make_patches("other", slides={"x": (4, 4), "y": (4, 4)}, seed=3)
    asked = _probe(replace(config, probe=str(other))).labelled
    assert asked.slides == ("identity of x", "identity of y") and asked.slide_ids == ()


def test_a_probe_without_labels_or_without_a_second_slide_is_refused(
    config: PretrainConfig, make_patches: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_patches("alone", slides={"a": (4, 4)})
    with pytest.raises(LabelError, match="all labelled patches are of one slide"):
        _probe(replace(config, patches=str(alone)))
    index = PatchIndex.open(config.patches, pixels=True)
    bare = PatchIndex(index.folder, tuple(replace(file, label=None) for file in index.files))
    with pytest.raises(LabelError, match="no patch has a label .*--annotations"):
        Probe(config, bare, RUNTIME, 28)
    with pytest.raises(ConfigError, match="--probe-groups needs --probe"):
        replace(config, probe=None, probe_groups="patients.csv")


def test_many_patches_are_thinned_evenly_over_the_classes(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_MOST", 10)
    first, again = _probe(config).labelled, _probe(config).labelled
    assert np.bincount(first.label).tolist() == [5, 5] and (first.rows == again.rows).all()
    assert (np.diff(first.rows) > 0).all()
    assert (first.rows != _probe(replace(config, seed=1)).labelled.rows).any()
