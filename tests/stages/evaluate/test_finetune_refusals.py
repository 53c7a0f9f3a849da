"""What cannot be fine-tuned, and rates that diverge."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import save_encoder
from sgcl_cli.errors import ArtefactError, ConfigError, TrainingError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate import evaluate
from tests.stages.evaluate.tuned import SIDE, SLIDES, Tiny, card_of, metrics, one_to_fit_on, settings

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": "mean-colour"}, "--finetune mean-colour is a baseline, not an encoder of sgcl pretrain"),
        ({"finetune": "random:resnet18"}, "is a baseline"),
        ({"finetune": "timm:resnet18"}, "is another library's encoder"),
        ({"patches": "nowhere"}, "the patches of s00.h5 are not in nowhere"),
        ({"finetune_lr": "fast"}, "--finetune-lr is 'fast'"),
        ({"finetune_shares": "10,200"}, "--finetune-shares is '10,200'.*at most 100"),
        ({"level": "slide"}, "--finetune is at patch level"),
        ({"dense": "masks", "features": None}, "--finetune does not go with --dense"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_fitted(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(settings(data, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_features_that_were_read_from_slides_are_refused(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data / "features", tmp_path / "features")
    with h5py.File(folder / "s00.h5", "r+") as file:
        file.attrs["pixels"] = "slides"
    with pytest.raises(
        ConfigError, match="--finetune needs patch images, and s00.h5 was computed directly from a slide"
    ):
        evaluate(settings(data, tmp_path / "out", features=str(folder)))


def test_coordinates_without_pixels_are_refused(data: Path, tmp_path: Path, write_patches: Callable[..., Path]) -> None:
    bare = write_patches(tmp_path / "bare", SLIDES, SIDE, pixels=False)
    with pytest.raises(ConfigError, match="holds only coordinates"):
        evaluate(settings(data, tmp_path / "out", patches=str(bare)))


def test_labels_of_slides_are_refused(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    table.write_text("slide_id,label\n" + "".join(f"{slide},{number % 2}\n" for number, slide in enumerate(SLIDES)))
    with pytest.raises(ConfigError, match="--finetune is at patch level, and the labels are of slides"):
        evaluate(settings(data, tmp_path / "out", labels=str(table)))


def test_features_of_another_encoder_are_refused(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_encoder(tmp_path / "run", card_of(data), Tiny().state_dict())
    with pytest.raises(ConfigError, match="features of another encoder than --finetune"):
        evaluate(settings(data, tmp_path / "out", finetune=str(tmp_path / "run")))
    torch.save(Tiny().state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ConfigError, match="holds weights without a card"):
        evaluate(settings(data, tmp_path / "out", finetune=str(tmp_path / "plain.pt")))
    with pytest.raises(ArtefactError, match="no such encoder"):
        evaluate(settings(data, tmp_path / "out", finetune=str(tmp_path / "absent")))


def test_a_rate_that_diverges_is_named_and_not_chosen(data: Path, tmp_path: Path) -> None:
    """Beside others it costs itself only: what is predicted is what the others say without it."""
    reporter = Silent()
    for name, rates in (("alone", "0.01"), ("beside", "0.01,1e18")):
        evaluate(settings(data, tmp_path / name, finetune_lr=rates, finetune_shares="100"), reporter)
    assert [said.split("the loss")[0] for said in reporter.warnings if "1e+18" in said] == [
        "Fine-tuned tiny, fold test: at --finetune-lr 1e+18 ",
        "tiny from scratch, fold test: at --finetune-lr 1e+18 ",
    ]
    assert metrics(tmp_path / "beside")["models"]["finetune"]["fits"]["test"]["lr"] == [0.01]
    found = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("alone", "beside")]
    assert found[0] == found[1]
    with pytest.raises(TrainingError, match="--finetune-lr 1e.18: the loss is not finite at any of them"):
        evaluate(settings(data, tmp_path / "out", finetune_lr="1e18", finetune_shares="100"))


def test_a_rate_that_diverges_where_none_is_chosen_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at --finetune-lr 1e.18 the loss is"):
        evaluate(settings(data, tmp_path / "out", labels=str(one_to_fit_on(tmp_path)), finetune_lr="1e18"))
