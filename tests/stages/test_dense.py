from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.evaluate import evaluate

SIDE = 64
FAST = {"threads": 1, "device": "cpu", "dense_layer": "layer1", "dense_pixels": 400}


def write_slide(folder: Path, slide_id: str, boundary: int) -> None:
    """Two patches side by side, dark left of the boundary, with a mask: 1 dark, 2 bright, 9 a strip of neither."""
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
            coords=corners.astype(np.int64),
            grid=(corners // SIDE).astype(np.int32),
            tissue=np.ones(2, np.float32),
            attributes={
                "id": f"id {slide_id}",
                "slide_id": slide_id,
                "config": {"mpp": 1.0, "patch_size": SIDE, "overlap": 0},
                "source": {"identity": slide_id},
            },
            coords_attributes={"patch_size_level0": SIDE, "level0_width": size[0], "level0_height": size[1]},
            pixels=True,
        )
    (folder / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "masks" / f"{slide_id}.mask.png"), mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for slide_id, boundary in (("a", 40), ("b", 70), ("c", 90)):
        write_slide(folder, slide_id, boundary)
    torch.manual_seed(0)
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


def test_pixels_are_told_apart_on_slides_that_the_head_never_saw(data: Path, tmp_path: Path) -> None:
    outcome = evaluate(settings(data, tmp_path / "out"))
    content = json.loads((tmp_path / "out/dense.json").read_text())
    assert content["classes"] == ["bright<b>", "dark"] and content["folds"] == 3
    head, commonest = content["scores"]["head"], content["scores"]["majority"]
    assert head["pixels"] == 3 * 2 * SIDE * (SIDE - 8), "the strip of neither does not count"
    assert head["mean_dice"] > 0.9 > commonest["mean_dice"]
    right = np.array(head["confusion"])
    dark = 2 * right[1, 1] / (right[1].sum() + right[:, 1].sum())
    assert head["dice"]["dark"]["value"] == pytest.approx(dark)
    assert [sum(row) for row in head["confusion"]] == [(384 - 200) * 56, 200 * 56]
    reported = [name for fit in content["fits"] for name in fit["reported"]]
    assert sorted(reported) == ["a", "b", "c"]
    with (tmp_path / "out/dense.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 + 3 * 2
    text = (tmp_path / "out/report.html").read_text()
    assert "bright<b>" not in text and "bright&lt;b&gt;" in text and f"{head['mean_dice']:.3f}" in text
    assert (tmp_path / "out/figures/confusion_pixels.svg").exists()
    assert outcome.headline[0][1].startswith(f"{head['mean_dice']:.3f} (")


def test_the_same_again_is_identical_and_groups_stay_together(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,patient_id\na,p\nb,p\nc,q\n")
    for name in ("one", "two"):
        evaluate(settings(data, tmp_path / name, labels=str(table)))
    one, two = (json.loads((tmp_path / name / "dense.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert sorted(sorted(fit["reported"]) for fit in one["fits"]) == [["a", "b"], ["c"]]


def test_without_names_every_value_is_a_class_but_the_ignored(data: Path, tmp_path: Path) -> None:
    evaluate(settings(data, tmp_path / "out", mask_values=None, ignore=9))
    assert json.loads((tmp_path / "out/dense.json").read_text())["classes"] == ["1", "2"]


def test_what_cannot_be_done_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --encoder and --patches"):
        evaluate(settings(data, tmp_path / "out", encoder=None))
    with pytest.raises(ConfigError, match="not features"):
        settings(data, tmp_path / "out", features="f")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.png").write_bytes((data / "masks/a.mask.png").read_bytes())
    with pytest.raises(LabelError, match="of 1 slides of 1 groups"):
        evaluate(settings(data, tmp_path / "out", dense=str(tmp_path / "one")))
    cv2.imwrite(str(tmp_path / "one/b.png"), np.ones((5, 5), np.uint8))
    with pytest.raises(LabelError, match="b.png is 5 x 5 pixels, its slide 128 x 64"):
        evaluate(settings(data, tmp_path / "out", dense=str(tmp_path / "one")))
    assert not (tmp_path / "out/run.json").exists()
