from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.evaluate.dense import run
from tests.stages.evaluate.dense.made import SIDE, settings, write_slide


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The result of three slides."""
    out = tmp_path_factory.mktemp("results") / "out"
    return out, evaluate(settings(data, out))


def test_pixels_are_told_apart_on_slides_that_the_head_never_saw(finished: tuple[Path, Outcome]) -> None:
    out, outcome = finished
    content = json.loads((out / "dense.json").read_text())
    assert content["classes"] == ["bright<b>", "dark"] and content["folds"] == 3
    head, commonest = content["scores"]["head"], content["scores"]["majority"]
    assert head["pixels"] == 3 * 2 * SIDE * (SIDE - 8), "the strip of neither does not count"
    assert content["uncounted"] == {"9": 8 / SIDE}
    assert head["mean_dice"]["value"] > 0.9 > commonest["mean_dice"]["value"]
    right = np.array(head["confusion"])
    dark = 2 * right[1, 1] / (right[1].sum() + right[:, 1].sum())
    assert head["dice"]["dark"]["value"] == pytest.approx(dark)
    assert [sum(row) for row in head["confusion"]] == [(384 - 200) * 56, 200 * 56]
    reported = [name for fit in content["fits"]["head"] for name in fit["reported"]]
    assert sorted(reported) == ["a", "b", "c"]
    with (out / "dense.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 3 * 2
    assert {row["no_interval"] for row in rows if row["scope"] == "head"} == {"3 slides, fewer than 10"}
    text = (out / "report.html").read_text()
    assert "bright<b>" not in text and "bright&lt;b&gt;" in text and f"{head['mean_dice']['value']:.3f}" in text
    assert "No interval: 3 slides, fewer than 10" in text
    assert (out / "figures/confusion_pixels.svg").exists()
    assert outcome.matrix is not None and outcome.matrix.corner == "Dice"
    assert [*outcome.matrix.columns] == [*outcome.data["models"].values()]
    assert dict(outcome.matrix.rows)["mean"][0] == f"{head['mean_dice']['value']:.3f}"
    assert dict(outcome.matrix.rows)["bright<b>"][0] == f"{head['dice']['bright<b>']['value']:.3f}"
    assert len(outcome.further) == 1


def test_the_commonest_class_and_random_weights_stand_beside(finished: tuple[Path, Outcome]) -> None:
    content = finished[1].data
    table = np.array(content["scores"]["majority"]["confusion"])
    assert table.sum() == content["scores"]["head"]["pixels"]
    for number, fit in enumerate(content["fits"]["head"]):
        assert fit["reported"] == content["fits"]["random"][number]["reported"], "the same slides are left out"
        assert fit["pixels"] == content["fits"]["random"][number]["pixels"]
    assert content["scores"]["random"]["confusion"] != content["scores"]["head"]["confusion"]
    for other in ("random", "majority"):
        apart = content["differences"][other]["mean_dice"]
        first, second = (content["scores"][key]["mean_dice"]["value"] for key in ("head", other))
        assert apart["value"] == pytest.approx(first - second) and apart["low"] is None


def test_again_it_is_returned_and_made_anew_it_is_identical(
    data: Path, finished: tuple[Path, Outcome], tmp_path: Path
) -> None:
    out, outcome = finished
    before = (out / "run.json").stat().st_mtime_ns
    again = evaluate(settings(data, out))
    assert again.data == outcome.data and again.matrix == outcome.matrix
    assert (out / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="holds a result of other settings: --dense-pixels was 400, is 399"):
        evaluate(settings(data, out, dense_pixels=399))
    evaluate(settings(data, tmp_path / "two"))
    assert (tmp_path / "two/dense.json").read_bytes() == (out / "dense.json").read_bytes()


def test_twelve_patients_give_intervals_and_a_vision_transformer_is_read_too(tmp_path: Path) -> None:
    for number in range(12):
        write_slide(tmp_path, f"s{number:02}", 24 + 6 * number)
    config = settings(
        tmp_path, tmp_path / "out", encoder="random:vit_tiny", dense_layer="block1", dense_pixels=100, folds=2
    )
    content = evaluate(replace(config, bootstrap=200)).data
    assert set(content["scores"]) == {"head", "majority"}, "random weights have no other random weights beside them"
    for metric in ("dice", "iou"):
        for score in (content["scores"]["head"][f"mean_{metric}"], *content["scores"]["head"][metric].values()):
            assert score["low"] < score["value"] < score["high"] and score["no_interval"] == ""
    apart = content["differences"]["majority"]["mean_dice"]
    assert apart["low"] < apart["value"] < apart["high"]
    assert f"({apart['low']:+.3f} to {apart['high']:+.3f})" in (tmp_path / "out/report.html").read_text()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "drawn.py").write_text(
        "from torch import nn\n"
        "def cells(): return nn.Conv2d(3, 6, 8, 8), {'resize': 36, 'input_size': 32, 'interpolation': 'bilinear'}\n"
        "def vector(): return nn.Sequential(cells()[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "drawn", raising=False)
    return "drawn"


def test_a_foreign_encoder_with_maps_sees_whole_patches_at_its_input_size(data: Path, tmp_path: Path, own: str) -> None:
    config = settings(data, tmp_path / "out", encoder=f"{own}:cells", dense_layer=None)
    index = PatchIndex.open(config.patches, pixels=True)
    assert run._open(config, index).readout.maps(torch.zeros(1, 3, 32, 32)).shape == (1, 6, 4, 4)
    content = evaluate(config).data
    assert content["layer"] == "the last layer" and set(content["scores"]) == {"head", "majority"}
    assert content["scores"]["head"]["mean_dice"]["value"] > content["scores"]["majority"]["mean_dice"]["value"]


def test_encoders_without_a_map_are_refused_by_name(data: Path, tmp_path: Path, own: str) -> None:
    for encoder, layer, why in (
        ("mean-colour", None, "with mean-colour: the encoder gives one vector an image and no map"),
        (f"{own}:vector", None, "with drawn:vector: the encoder gives one vector"),
        (f"{own}:cells", "layer1", "--dense-layer does not go with --encoder drawn:cells"),
        ("random:resnet18", "block1", "the encoder has no layer 'block1' .*layer1 to layer4"),
        ("run that is not", None, "run that is not"),
    ):
        with pytest.raises((ConfigError, ArtefactError), match=why):
            evaluate(settings(data, tmp_path / "out", encoder=encoder, dense_layer=layer))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --encoder and --patches"):
        evaluate(settings(data, tmp_path / "out", encoder=None))
    with pytest.raises(ConfigError, match="not features"):
        settings(data, tmp_path / "out", features="f")
    with pytest.raises(ConfigError, match="--splits does not go with --dense"):
        settings(data, tmp_path / "out", splits="s.csv")


def test_masks_whose_classes_lie_outside_all_patches(data: Path, tmp_path: Path) -> None:
    """Both classes are in the masks, but the training slides' patches hold none of their pixels, or one class."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for slide_id, value in (("a", 1), ("b", 1), ("c", 2)):
        cv2.imwrite(str(folder / f"{slide_id}.png"), np.full((SIDE, 2 * SIDE), value, np.uint8))
    with pytest.raises(LabelError, match="the training slides a, b hold one class only within their patches"):
        evaluate(settings(data, tmp_path / "out", dense=str(folder), dense_pixels=10))
    assert not (tmp_path / "out/run.json").exists()
