"""Encoders of every kind, from the settings to the features and into training."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sgcl_cli.artefacts.checkpoint import EncoderCard, load_encoder, save_encoder
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig, PretrainConfig
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.vit import VisionTransformer
from sgcl_cli.progress import Silent
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.encoders import build_start, check_resolution, input_side, open_encoder, open_start
from sgcl_cli.stages.pretrain import pretrain

Make = Callable[..., Path]


class _Small(nn.Module):
    """A little network that others might bring; ``seed`` decides its weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 6, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """A module named timm that knows ``small``; returns what was asked of it. Pretrained weights have another seed."""
    asked: list[tuple[str, bool]] = []

    def create_model(model_name: str, pretrained: bool = False, num_classes: int = 1000) -> nn.Module:
        asked.append((model_name, pretrained))
        return _Small(seed=1 if pretrained else 0)

    library, data = ModuleType("timm"), ModuleType("timm.data")
    library.create_model = create_model
    data.resolve_model_data_config = lambda model: {
        "input_size": (3, 28, 28),
        "crop_pct": 0.7,
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    }
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return asked


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder with functions that make encoders."""
    (tmp_path / "brought.py").write_text(
        "from torch import nn\n"
        "made = []\n"
        "def vector():\n"
        "    made.append(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def scalar(): return nn.Flatten(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "brought", raising=False)
    return "brought"


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(
        patches=str(make_patches()),
        encoder="timm:small",
        out=str(tmp_path / "features"),
        dtype="float32",
        threads=1,
        device="cpu",
    )


def _features(model: nn.Module, images: np.ndarray, mean: tuple, std: tuple) -> np.ndarray:
    x = (images.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2)).contiguous()).numpy()


# Embedding.


def test_a_state_dict_of_torchvisions_with_its_architecture(config: EmbedConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ENCODERS["resnet18"]()
    path = tmp_path / "resnet18.pth"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "module.fc.weight": torch.zeros(2, 512)}, "epoch": 9}, path)
    config, reporter = replace(config, encoder=str(path), arch="resnet18", input_size=32), Silent()
    opened = open_encoder(config)
    assert opened.notes == (
        "resnet18.pth: 120 of 120 tensors matched from 'state_dict'; heads left aside: 'module.fc.weight'",
    )
    embed(config, reporter)
    assert "resolution unknown: the encoder was trained at unknown µm/px, the images are at 0.5" in reporter.warnings[0]
    index = PatchIndex.open(config.patches)
    patches = np.stack([StoredPatches(index)(i) for i in range(16)])
    file = open_features(config.out).by_slide()["a"]
    np.testing.assert_allclose(file.features, _features(model, patches, MEAN, STD), rtol=1e-4, atol=1e-5)
    assert file.attributes["encoder_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    feed = json.loads(file.attributes["encoder_feed"])
    assert feed == {
        "name": "resnet18",
        "input_size": 32,
        "mean": list(MEAN),
        "std": list(STD),
        "resize": None,
        "interpolation": None,
        "layer": None,
        "pool": "auto",
    }


def test_timm_with_its_own_transform_and_weights(config: EmbedConfig, timm: list) -> None:
    embed(replace(config, encoder_mpp=0.4))
    assert set(timm) == {("small", True)}
    index = PatchIndex.open(config.patches)
    resized = [Image.fromarray(StoredPatches(index)(i)).resize((40, 40), Image.Resampling.BICUBIC) for i in range(16)]
    crops = np.stack([np.asarray(image)[6:34, 6:34] for image in resized])
    file = open_features(config.out).by_slide()["a"]
    expected = _features(_Small(seed=1), crops, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    np.testing.assert_allclose(file.features, expected, rtol=0, atol=0.004)
    assert file.attributes["encoder_mpp"] == 0.4 and len(file.attributes["encoder_sha256"]) == 64
    feed = json.loads(file.attributes["encoder_feed"])
    assert (feed["resize"], feed["input_size"], feed["interpolation"]) == (40, 28, "bicubic")


def test_timm_offline_by_a_file_of_weights(config: EmbedConfig, timm: list, tmp_path: Path) -> None:
    torch.save(_Small(seed=5).state_dict(), tmp_path / "w.pth")
    config = replace(config, weights=str(tmp_path / "w.pth"))
    opened = open_encoder(config)
    assert timm == [("small", False)] and opened.card.embedding_size == 6
    assert torch.equal(opened.readout.network.conv.weight, _Small(seed=5).conv.weight)
    assert opened.card.sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    torch.save({"conv.weight": torch.zeros(6, 3, 4, 4)}, tmp_path / "w.pth")
    with pytest.raises(ArtefactError, match=r"do not fit timm:small: .*w.pth lacks 1 of its 2 tensors, 'conv.bias'"):
        open_encoder(config)
    with pytest.raises(ArtefactError, match="no such encoder: .*absent.pth"):
        open_encoder(replace(config, weights=str(tmp_path / "absent.pth")))


def test_what_the_settings_say_wins_over_the_recorded_transform(config: EmbedConfig, timm: list) -> None:
    card = open_encoder(replace(config, input_size=56, mean="0,0,0", std="1,1,1", encoder_mpp=0.5)).card
    assert (card.input_size, card.resize, card.mean, card.std, card.mpp) == (56, 80, (0, 0, 0), (1, 1, 1), 0.5)


def test_images_of_other_sizes_are_resized_as_pil_does_it(config: EmbedConfig, timm: list, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "x").mkdir(parents=True)
    sizes = ((60, 80), (20, 24))
    for number, (width, height) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            tmp_path / "images" / "x" / f"{number}.png"
        )
    embed(replace(config, patches=str(tmp_path / "images")))
    crops = []
    for number, (width, height) in enumerate(sizes):
        image = Image.open(tmp_path / "images" / "x" / f"{number}.png")
        tall = 40 * height // width
        pixels = np.asarray(image.resize((40, tall), Image.Resampling.BICUBIC))
        top = (tall - 40) // 2
        crops.append(pixels[top + 6 : top + 34, 6:34])
    expected = _features(_Small(seed=1), np.stack(crops), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    found = open_features(config.out).by_slide()["images"].features
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_layer_and_pool_are_recorded_and_never_mixed(config: EmbedConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = EncoderCard("resnet18", 512, 32, MEAN, STD, 0.5, 32)
    save_encoder(tmp_path / "encoder", card, ENCODERS["resnet18"]().state_dict())
    config = replace(config, encoder=str(tmp_path / "encoder"), layer="layer3")
    embed(config)
    assert open_features(config.out).dim == 256
    with pytest.raises(ConfigError, match="a.h5 was made with other settings: --layer was layer3, is None"):
        embed(replace(config, layer=None))
    other = replace(config, layer="layer2", out=str(tmp_path / "other"))
    embed(other)
    (Path(other.out) / "a.h5").unlink()
    (Path(config.out) / "b.h5").unlink()
    (Path(other.out) / "b.h5").rename(Path(config.out) / "b.h5")
    with pytest.raises(ArtefactError, match="b.h5 has 128 dimensions, a.h5 256"):
        open_features(config.out)


def test_two_ways_of_embedding_with_equal_dimensions_in_one_folder(config: EmbedConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ENCODERS["vit_tiny"]()
    save_encoder(tmp_path / "encoder", EncoderCard("vit_tiny", 192, 32, MEAN, STD, 0.5, 32), network.state_dict())
    config = replace(config, encoder=str(tmp_path / "encoder"), pool="cls")
    other = replace(config, pool="mean", out=str(tmp_path / "other"))
    embed(config)
    embed(other)
    (Path(other.out) / "b.h5").replace(Path(config.out) / "b.h5")
    with pytest.raises(ArtefactError, match="b.h5 and a.h5 were embedded in different ways"):
        open_features(config.out)
    assert open_encoder(replace(config, pool="cls+mean")).card.embedding_size == 384


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "layer2"}, "--layer cannot be used with --encoder timm:small"),
        ({"arch": "resnet18"}, "--arch cannot be used with --encoder timm:small"),
        ({"pool": "mean"}, "timm:small cannot take images of 28 x 28 pixels: .*forward_features"),
        ({"encoder": "brought:scalar"}, r"--pool auto: the encoder gives an array \(150528,\)"),
        ({"encoder": "RUN", "weights": "w.pth"}, "--weights w.pth: --encoder .* already names weights"),
        ({"encoder": "RUN", "input_size": 40}, "vit_tiny cannot take images of 40 x 40 .*patches of 16 .*--input-size"),
        ({"encoder": "RUN", "layer": "layer1"}, "the encoder has no layer 'layer1' .*block1 to block12"),
        ({"encoder": "RUN", "input_size": 48}, "the patches are 32 pixels, the encoder's input is 48"),
    ],
)
def test_encoders_that_cannot_be_used_so(
    config: EmbedConfig, timm: list, own: str, tmp_path: Path, change: dict, message: str
) -> None:
    network = ENCODERS["vit_tiny"]()
    save_encoder(tmp_path / "encoder", EncoderCard("vit_tiny", 192, 32, MEAN, STD, 0.5, 32), network.state_dict())
    change = {key: str(tmp_path / "encoder") if value == "RUN" else value for key, value in change.items()}
    with pytest.raises(ConfigError, match=message):
        embed(replace(config, **change))
    assert not Path(config.out).exists()


def _card(**change: Any) -> EncoderCard:
    return replace(EncoderCard("x", 4, 224, MEAN, STD, 0.5, 256), **change)


def test_resolutions_are_compared_after_the_encoders_resizing() -> None:
    def judged(card: EncoderCard, mpp: float | None, size: int | None = 256, allowed: bool = False) -> list[str]:
        return check_resolution(card, mpp, size, allowed=allowed)

    assert judged(_card(), 0.54) == judged(_card(resize=256), 0.46) == judged(_card(resize=224), 0.44) == []
    with pytest.raises(
        ConfigError, match=r"at 0.6 µm/px, the encoder was trained at 0.5 \(tile with --mpp 0.5, .*--allow-mpp"
    ):
        judged(_card(), 0.6)
    message = r"at 0.5 µm/px \(0.571 after its resizing\), the encoder was trained at 0.5 \(tile with --mpp 0.438"
    with pytest.raises(ConfigError, match=message):
        judged(_card(resize=224), 0.5)
    assert judged(_card(), 0.6, allowed=True) == ["the patches are at 0.6 µm/px, the encoder was trained at 0.5"]
    assert "resolution unknown" in judged(_card(mpp=None), 0.5)[0]
    assert "resolution unknown" in judged(_card(), None, None)[0]


def test_patches_may_be_smaller_than_the_input_where_they_are_resized() -> None:
    assert check_resolution(_card(resize=256, mpp=0.125), 0.5, 64, allowed=False) == []
    with pytest.raises(ConfigError, match="the patches are 64 pixels"):
        check_resolution(_card(), 0.5, 64, allowed=False)


def test_an_artefact_names_no_code(config: EmbedConfig, own: str, timm: list, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 6, 4, 4)).state_dict()
    save_encoder(tmp_path / "encoder", EncoderCard("brought:vector", 6, 32, MEAN, STD, 0.5, 32), state)
    config = replace(config, encoder=str(tmp_path / "encoder"))
    with pytest.raises(ArtefactError, match=r"encoder 'brought:vector' is not known .*--arch brought:vector"):
        embed(config)
    assert "brought" not in sys.modules
    opened = open_encoder(replace(config, arch="brought:vector"))
    assert (opened.card.embedding_size, opened.card.mpp, opened.card.input_size) == (6, 0.5, 32)
    for name in ("timm:hf-hub:org/name", "timm:local-dir:folder"):
        save_encoder(tmp_path / "encoder", EncoderCard(name, 6, 32, MEAN, STD, 0.5, 32), state)
        with pytest.raises(ArtefactError, match=f"encoder '{name}' is not known"):
            embed(config)
    assert timm == []


def test_a_card_that_states_another_width(config: EmbedConfig, tmp_path: Path) -> None:
    state = ENCODERS["resnet18"]().state_dict()
    save_encoder(tmp_path / "encoder", EncoderCard("resnet18", 500, 32, MEAN, STD, 0.5, 32), state)
    with pytest.raises(ArtefactError, match="gives 512 numbers an image, its card records 500"):
        embed(replace(config, encoder=str(tmp_path / "encoder")))


# Training.


def test_a_vision_transformer_trains_and_exports_timms_names(
    training: PretrainConfig, config: EmbedConfig, make_patches: Make
) -> None:
    few = str(make_patches("few", slides={"a": (4, 3)}))
    training = replace(training, patches=few, encoder="vit_tiny", optimiser="adamw", lr=5e-4, view=32, corner=16)
    pretrain(training)
    card, state = load_encoder(training.out)
    assert (card.name, card.embedding_size, card.input_size) == ("vit_tiny", 192, 32)
    ENCODERS["vit_tiny"]().load_state_dict(state, strict=True)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        first = ENCODERS["vit_tiny"]().state_dict()
    moved = [name for name in first if not torch.equal(first[name], state[name])]
    assert {"pos_embed", "cls_token", "blocks.11.mlp.fc2.weight"} <= set(moved)
    embed(replace(config, encoder=training.out))
    assert open_features(config.out).dim == 192


@pytest.mark.parametrize(
    ("view", "corner", "message"),
    [
        (None, None, r"vit_tiny cannot take images of 28 x 28 pixels: .*use --view 32, a multiple of 16"),
        (32, None, r"images of 12 x 12 pixels: .*use --corner 16, a multiple of 16"),
    ],
)
def test_views_that_do_not_divide_into_patches(
    training: PretrainConfig, view: int | None, corner: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(replace(training, encoder="vit_tiny", view=view, corner=corner))
    assert not Path(training.out).exists()


@pytest.mark.parametrize(("size", "side"), [(256, 224), (224, 192), (32, 32), (20, 16), (512, 448)])
def test_the_embedded_crop_suits_the_encoder(size: int, side: int) -> None:
    assert input_side(VisionTransformer(8, 1, 2), size) == side
    assert input_side(nn.Identity(), size) == round(size * 7 / 8)


def test_random_weights_depend_on_the_seed_alone_and_say_nothing() -> None:
    start = open_start("resnet18", None)
    torch.manual_seed(3)
    network, width, fit = build_start(start, (32,))
    torch.manual_seed(3)
    assert torch.equal(network.layer4[1].conv2.weight, ENCODERS["resnet18"]().layer4[1].conv2.weight)
    assert (width, fit, start.settings, start.slides) == (512, None, {}, ())
    assert network.training and not network.bn1.num_batches_tracked, "trying the sizes leaves no trace"


def test_timm_trains_from_scratch_and_is_embedded_by_its_plain_name(
    training: PretrainConfig, config: EmbedConfig, timm: list
) -> None:
    pretrain(replace(training, encoder="timm:small"))
    embed(replace(config, encoder=training.out))
    assert set(timm) == {("small", False)}
    card, state = load_encoder(training.out)
    assert (card.name, card.embedding_size, set(state)) == ("timm:small", 6, {"conv.weight", "conv.bias"})
    assert open_features(config.out).dim == 6


def test_a_function_of_ones_own_trains_and_must_be_named_again(
    training: PretrainConfig, config: EmbedConfig, own: str
) -> None:
    with pytest.raises(ConfigError, match=r"brought:scalar gives \(2352,\) for one image, not one vector"):
        pretrain(replace(training, encoder=f"{own}:scalar"))
    pretrain(replace(training, encoder=f"{own}:vector"))
    with pytest.raises(ArtefactError, match=f"--arch {own}:vector"):
        embed(replace(config, encoder=training.out))
    embed(replace(config, encoder=training.out, arch=f"{own}:vector"))
    assert open_features(config.out).dim == 6
