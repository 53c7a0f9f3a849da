from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.artefacts.patches import PatchIndex, PatchWriter
from sgcl_cli.artefacts.results import Outcome
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.evaluate.dense import run
from sgcl_cli.stages.evaluate.dense.masks import open_masks

SIDE = 64
FAST = {"threads": 1, "device": "cpu", "dense_layer": "layer1", "dense_pixels": 400}


def write_slide(folder: Path, slide_id: str, boundary: int, at: tuple[int, int] | None = None) -> None:
    """Two patches side by side, dark left of the boundary, with a mask: 1 dark, 2 bright, 9 a strip of neither.

    :param at: the corner of the scanned part, which is all that the mask covers; None where all is scanned.
    """
    size = (2 * SIDE, SIDE)
    mask = np.full((SIDE, 2 * SIDE), 2, np.uint8)
    mask[:, :boundary] = 1
    mask[:8] = 9
    rng = np.random.default_rng([*slide_id.encode()])
    image = np.where(mask[..., None] == 1, 60, 200) + rng.integers(-10, 10, (*mask.shape, 3))
    image[:8] = 128
    corners = np.array([[0, 0], [SIDE, 0]])
    with PatchWriter(folder / "tiles/patches" / f"{slide_id}.h5") as writer:
        for x, y in corners:
            patch = np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE].astype(np.uint8))
            writer.append(simplejpeg.encode_jpeg(patch, quality=95))
        writer.finish(
            coords=corners.astype(np.int64) + (at or (0, 0)),
            grid=(corners // SIDE).astype(np.int32),
            tissue=np.ones(2, np.float32),
            attributes={
                "id": f"id {slide_id}",
                "slide_id": slide_id,
                "config": {"mpp": 1.0, "patch_size": SIDE, "overlap": 0},
                "source": {"identity": slide_id, "bounds": None if at is None else [*at, *size]},
            },
            coords_attributes={
                "patch_size_level0": SIDE,
                "level0_width": size[0] if at is None else 1000,
                "level0_height": size[1] if at is None else 900,
            },
            pixels=True,
        )
    (folder / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "masks" / f"{slide_id}.mask.png"), mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for slide_id, boundary in (("a", 40), ("b", 70), ("c", 90)):
        write_slide(folder, slide_id, boundary)
    torch.manual_seed(1)
    card = EncoderCard("resnet18", 512, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, SIDE)
    save_encoder(folder / "run", card, ENCODERS["resnet18"]().state_dict())
    return folder


def settings(data: Path, out: Path, **changes):
    fields = {
        "dense": str(data / "masks"),
        "encoder": str(data / "run"),
        "patches": str(data / "tiles"),
        "out": str(out),
    }
    return EvaluateConfig(**{**fields, **FAST, "mask_values": "1=dark,2=bright<b>", **changes})


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The result of three slides."""
    out = tmp_path_factory.mktemp("results") / "out"
    return out, evaluate(settings(data, out))


def masks_of(data: Path, folder: Path, **changes):
    """What is read of a folder of masks."""
    config = settings(data, folder / "unused", **changes)
    return open_masks(config, PatchIndex.open(config.patches, pixels=True))


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


def test_patients_and_sites_stay_together(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,patient_id,site\na,p,north\nb,p,north\nc,q,south\n")
    masks = masks_of(data, tmp_path, labels=str(table))
    assert masks.group.tolist() == ["p", "p", "q"] and masks.left_out == "patients"
    masks = masks_of(data, tmp_path, labels=str(table), cv="site")
    assert masks.group.tolist() == ["north", "north", "south"] and masks.left_out == "sites"
    assert masks.patient.tolist() == ["p", "p", "q"]
    for rows, why in (("a,p,north\nb,p,south\nc,q,south", "'p' stands at two sites"), ("a,p,north", "'b' has no site")):
        table.write_text(f"slide_id,patient_id,site\n{rows}\n")
        with pytest.raises(LabelError, match=why):
            masks_of(data, tmp_path, labels=str(table), cv="site")
    table.write_text("slide_id,patient_id\na,p\nb,p\nc,p\n")
    with pytest.raises(LabelError, match="only one of the patients has masks and patches: 'p'"):
        masks_of(data, tmp_path, labels=str(table))


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


def test_without_names_every_value_is_a_class_but_the_ignored(data: Path, tmp_path: Path) -> None:
    assert masks_of(data, tmp_path, mask_values=None).classes == ("1", "2", "9")
    masks = masks_of(data, tmp_path, mask_values=None, ignore=9)
    assert masks.classes == ("1", "2") and masks.uncounted == {9: 8 / SIDE}


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


def test_masks_of_the_scanned_part_count_from_its_corner(tmp_path: Path) -> None:
    for slide_id, at in (("a", (300, 211)), ("b", None)):
        write_slide(tmp_path, slide_id, 40, at)
    with pytest.raises(
        LabelError, match=r"a.mask.png is 128 x 64 pixels, its slide 1000 x 900 \(use --mask-origin bounds"
    ):
        masks_of(tmp_path, tmp_path)
    masks = masks_of(tmp_path, tmp_path, mask_origin="bounds")
    for row in (0, 1):
        part, whole = (slide.truth(row, SIDE, masks.classes) for slide in masks.slides)
        assert (part == whole).all() and set(np.unique(part)) == ({-1, 0, 1} if row == 0 else {-1, 0})
    cv2.imwrite(str(tmp_path / "masks/a.mask.png"), np.ones((900, 1000), np.uint8))
    with pytest.raises(LabelError, match=r"the scanned part of its slide 128 x 64 \(use --mask-origin slide"):
        masks_of(tmp_path, tmp_path, mask_origin="bounds")
    cv2.imwrite(str(tmp_path / "masks/a.mask.png"), np.ones((64, 64), np.uint8))
    with pytest.raises(LabelError, match=r"its slide 1000 x 900 \(give masks of the slides' full size"):
        masks_of(tmp_path, tmp_path)


def test_classes_that_look_alike_and_two_masks_of_a_slide_are_told(data: Path, tmp_path: Path) -> None:
    masks = masks_of(data, tmp_path, mask_values="1=Tumour,2=tumour,9=other")
    assert "classes differ only in case or blanks: 'Tumour' and 'tumour'" in masks.warnings
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("a.png", "a_mask.png"):
        (folder / name).write_bytes((data / "masks/a.mask.png").read_bytes())
    with pytest.raises(LabelError, match=r"two files for slide a: a.png and a_mask.png"):
        masks_of(data, tmp_path, dense=str(folder))


def test_masks_that_cannot_be_used_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="none of the classes; their values are 1, 2, 9"):
        masks_of(data, tmp_path, mask_values="255=tumour,0=other")
    with pytest.raises(LabelError, match="one class only: dark; their values are 1, 2, 9"):
        masks_of(data, tmp_path, mask_values="1=dark,7=other")
    with pytest.raises(ConfigError, match="nowhere is absent"):
        masks_of(data, tmp_path, dense=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"a.mask.png is a file, not a folder \(give a folder"):
        masks_of(data, tmp_path, dense=str(data / "masks/a.mask.png"))
    folder = tmp_path / "masks"
    folder.mkdir()
    cv2.imwrite(str(folder / "stranger.png"), np.ones((SIDE, 2 * SIDE), np.uint8))
    with pytest.raises(ConfigError, match=r"no file in .* is named by one of the slides; it has stranger.png"):
        masks_of(data, tmp_path, dense=str(folder))
    (folder / "a.png").write_bytes((data / "masks/a.mask.png").read_bytes())
    with pytest.raises(LabelError, match="only one of the slides has masks and patches: 'a'"):
        masks_of(data, tmp_path, dense=str(folder))
    (folder / "b.png").write_bytes((data / "masks/b.mask.png").read_bytes())
    said = masks_of(data, tmp_path, dense=str(folder), mask_values="1=dark,2=bright,7=rare").warnings
    assert said == (
        "1 masks are of no slide with patches: stranger.png",
        "1 slides have no mask and are left out: c",
        "1 values of --mask-values are in no mask: 7=rare",
    )
    cv2.imwrite(str(folder / "b.png"), np.ones((5, 5), np.uint8))
    with pytest.raises(LabelError, match="b.png is 5 x 5 pixels, its slide 128 x 64"):
        masks_of(data, tmp_path, dense=str(folder))
    cv2.imwrite(str(folder / "b.png"), np.ones((SIDE, 2 * SIDE, 3), np.uint8))
    with pytest.raises(LabelError, match=r"b.png has shape \(64, 128, 3\)"):
        masks_of(data, tmp_path, dense=str(folder))


def test_masks_whose_classes_lie_outside_all_patches(data: Path, tmp_path: Path) -> None:
    """Both classes are in the masks, but the training slides' patches hold none of their pixels, or one class."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for slide_id, value in (("a", 1), ("b", 1), ("c", 2)):
        cv2.imwrite(str(folder / f"{slide_id}.png"), np.full((SIDE, 2 * SIDE), value, np.uint8))
    with pytest.raises(LabelError, match="the training slides a, b hold one class only within their patches"):
        evaluate(settings(data, tmp_path / "out", dense=str(folder), dense_pixels=10))
    assert not (tmp_path / "out/run.json").exists()
