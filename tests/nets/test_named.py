"""Named encoders. Where timm and transformers are installed their networks are made for real, without weights."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.catalogue import CATALOGUE
from sgcl_cli.nets.foreign import Preprocessing
from sgcl_cli.nets.named import build_named, is_named, takes_folder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
# name: (mean and std, resized to, interpolation, µm/px after it, pooling)
FEEDS = {
    "resnet50-imagenet": (IMAGENET, 224, "bilinear", None, "auto"),
    "lunit-vits8": (LUNIT, 224, "bilinear", 0.5, "cls"),
    "phikon": (IMAGENET, 224, "bilinear", 0.5, "cls"),
    "phikon-v2": (IMAGENET, 224, "bilinear", 0.5, "cls"),
    "uni": (IMAGENET, 224, "bilinear", 4 / 7, "cls"),
    "uni2": (IMAGENET, 224, "bilinear", 4 / 7, "cls"),
    "virchow": (IMAGENET, 224, "bicubic", 0.5, "cls+mean"),
    "virchow2": (IMAGENET, 224, "bicubic", 0.5, "cls+mean"),
    "gigapath": (IMAGENET, 256, "bicubic", 0.5, "cls"),
    "h-optimus-0": (OPTIMUS, 224, "bilinear", 0.5, "cls"),
    "h-optimus-1": (OPTIMUS, 224, "bilinear", 0.5, "cls"),
    "h0-mini": (None, 224, "bilinear", 0.5, "cls"),
    "kaiko-vits8": (HALF, 224, "bilinear", 4 / 7, "cls"),
    "kaiko-vits16": (HALF, 224, "bilinear", 4 / 7, "cls"),
    "kaiko-vitb8": (HALF, 224, "bilinear", 4 / 7, "cls"),
    "kaiko-vitb16": (HALF, 224, "bilinear", 4 / 7, "cls"),
    "kaiko-vitl14": (HALF, 224, "bilinear", 4 / 7, "cls"),
    "midnight": (HALF, 224, "bilinear", 0.5, "cls+mean"),
    "hibou-b": (HIBOU, 224, "bicubic", 0.5, "cls"),
    "hibou-l": (HIBOU, 224, "bicubic", 0.5, "cls"),
    "ctranspath": (IMAGENET, 224, "bilinear", 8 / 7, "auto"),
    "gpfm": (IMAGENET, 224, "bicubic", 0.5, "cls"),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_transform_of_each(name: str) -> None:
    entry = CATALOGUE[name]
    mpp = None if entry.mpp is None else pytest.approx(entry.mpp)
    assert (entry.colours, entry.resize, entry.interpolation, mpp, entry.pool) == FEEDS[name]


def test_the_docs_name_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "embed.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    for name in CATALOGUE:
        assert f"`{name}`" in rows or f"`-{name.rpartition('-')[2]}`" in rows, name


class _Network(nn.Module):
    """Class token, a register and the patches, as timm's vision transformers give them."""

    num_prefix_tokens = 2

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 1))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 100.0, 2.0, 4.0]).view(1, 4, 1).expand(len(x), -1, -1)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, dict[str, Any]]]:
    """A module named timm; returns the calls of create_model."""
    calls: list[tuple[str, bool, dict[str, Any]]] = []

    def create_model(model_name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        calls.append((model_name, pretrained, arguments))
        return _Network()

    library, data = ModuleType("timm"), ModuleType("timm.data")
    library.create_model = create_model  # type: ignore[attr-defined]
    library.layers = SimpleNamespace(SwiGLUPacked="packed")  # type: ignore[attr-defined]
    recorded = {"input_size": (3, 224, 224), "mean": (0.1,) * 3, "std": (0.2,) * 3, "crop_pct": 1.0}
    data.resolve_model_data_config = lambda _: {**recorded, "interpolation": "bicubic"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return calls


def test_weights_of_the_hub_or_of_a_file(timm: list) -> None:
    made = build_named("virchow2", None)
    assert made.feed == Preprocessing(224, *IMAGENET, 224, "bicubic", 0.5)
    build_named("virchow2", "w.pth")
    swiglu = {"mlp_layer": "packed", "act_layer": nn.SiLU, "num_classes": 0}
    arguments = {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True, "reg_tokens": 4}
    assert timm == [
        ("hf-hub:paige-ai/Virchow2", True, {**swiglu, **arguments}),
        ("vit_huge_patch14_224", False, {**swiglu, **arguments}),
    ]


def test_pooling_is_the_encoders_own_unless_another_is_asked_for(timm: list) -> None:
    image = torch.zeros(1, 3, 8, 8)
    made = build_named("virchow2", None)
    assert made.readout("auto")(image).tolist() == [[1.0, 3.0]], "class token, and the mean without the register"
    assert made.readout("cls")(image).tolist() == [[1.0]]
    assert build_named("uni", None).readout("auto")(image).tolist() == [[1.0]]


def test_a_transform_that_the_hub_records(timm: list) -> None:
    assert build_named("h0-mini", None).feed == Preprocessing(224, (0.1,) * 3, (0.2,) * 3, 224, "bicubic", 0.5)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("h0-mini", "w.pth", r"h0-mini is made from its configuration on the hub \(leave --weights out"),
        ("gpfm", None, r"gpfm has no weights that timm can fetch \(download its file from majiabo/GPFM"),
    ],
)
def test_weights_in_another_form(timm: list, name: str, weights: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_named(name, weights)
    assert timm == []


def test_a_hub_that_refuses(timm: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> nn.Module:
        raise OSError("401")

    monkeypatch.setattr(sys.modules["timm"], "create_model", refused)
    with pytest.raises(ConfigError, match=r"uni cannot be made: 401 \(.*MahmoodLab/UNI: agree to its terms there"):
        build_named("uni", None)


def test_weights_of_transformers_are_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    assert takes_folder("phikon") and not takes_folder("uni") and not is_named("unknown")
    with pytest.raises(ConfigError, match=r"phikon needs a folder with config.json .*all files of owkin/phikon"):
        build_named("phikon", str(tmp_path))


def _installed(name: str) -> Any:
    try:
        return __import__(name)
    except Exception as error:  # a build of torchvision for another torch, say
        pytest.skip(f"{name} cannot be imported here: {error}")


# Millions of parameters as published: ViT-S 22, B 86, L 303, UNI2-h 681, Virchow 631, giants 1,134.
MILLIONS = {
    "uni": 303,
    "uni2": 681,
    "virchow": 631,
    "virchow2": 631,
    "gigapath": 1135,
    "h-optimus-0": 1135,
    "gpfm": 303,
}
MILLIONS |= {"h-optimus-1": 1135, "kaiko-vits8": 22, "kaiko-vits16": 22, "kaiko-vitb8": 86, "kaiko-vitb16": 86}
MILLIONS |= {"kaiko-vitl14": 304, "lunit-vits8": 22, "resnet50-imagenet": 24, "ctranspath": 28}


@pytest.mark.parametrize("name", MILLIONS)
def test_the_architecture_made_by_timm(name: str) -> None:
    _installed("timm")
    with torch.device("meta"):  # shapes without numbers
        made = build_named(name, "weights from a file")
        embedded = made.readout("auto")(torch.zeros(2, 3, made.feed.input_size, made.feed.input_size))
    assert embedded.shape == (2, CATALOGUE[name].width)
    assert round(sum(parameter.numel() for parameter in made.network.parameters()) / 1e6) == MILLIONS[name]


def test_ctranspath_takes_the_names_of_older_versions_of_timm() -> None:
    _installed("timm")
    with torch.device("meta"):
        made = build_named("ctranspath", "ctranspath.pth")
    wanted = [*made.network.state_dict()]
    old = [re.sub(r"layers\.(\d)\.down", lambda match: f"layers.{int(match[1]) - 1}.down", name) for name in wanted]
    assert old != wanted and [*made.rename(dict.fromkeys(old, torch.zeros(1)))] == wanted


def _tiny_vit(library: Any) -> Any:
    return library.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def _tiny_dinov2(library: Any) -> Any:
    return library.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=224
    )


@pytest.mark.parametrize(
    ("name", "config", "width"),
    [("phikon", _tiny_vit, 8), ("phikon-v2", _tiny_dinov2, 8), ("midnight", _tiny_dinov2, 16)],
)
def test_a_folder_of_transformers(name: str, config: Callable[[Any], Any], width: int, tmp_path: Path) -> None:
    library = _installed("transformers")
    library.AutoModel.from_config(config(library)).save_pretrained(tmp_path)
    made = build_named(name, str(tmp_path))
    assert made.readout("auto")(torch.zeros(1, 3, 224, 224)).shape == (1, width)


HIBOU_SIZES = {
    "hibou-b": 85_741_056,
    "hibou-l": 303_659_264,
}  # model.safetensors of hibou-b has 343 MB, hibou-L 304 M parameters


@pytest.mark.parametrize("name", HIBOU_SIZES)
def test_the_architecture_of_hibou(name: str) -> None:
    library, entry = _installed("transformers"), CATALOGUE[name]
    with torch.device("meta"):
        network = library.Dinov2WithRegistersModel(library.Dinov2WithRegistersConfig(**entry.arguments))
    assert sum(parameter.numel() for parameter in network.parameters()) == HIBOU_SIZES[name]


def _published(width: int, hidden: int) -> dict[str, torch.Tensor]:
    """A block of Hibou under the names of its tensors on the hub."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {
        "embeddings.cls_token": drawn(1, 1, width),
        "embeddings.mask_token": drawn(1, width),
        "embeddings.position_embeddings": drawn(1, 257, width),
        "embeddings.register_tokens": drawn(1, 4, width),
        "embeddings.patch_embeddings.projection.weight": drawn(width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": drawn(width),
        "layernorm.weight": drawn(width),
        "layernorm.bias": drawn(width),
    }
    block, attention = "encoder.layer.0.", "encoder.layer.0.attention."
    shapes = {f"{attention}attention.{name}": (width, width) for name in ("query", "key", "value")}
    shapes |= {f"{attention}output.dense": (width, width), f"{block}norm1": (width,), f"{block}norm2": (width,)}
    shapes |= {f"{block}mlp.weights_in": (2 * hidden, width), f"{block}mlp.weights_out": (width, hidden)}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": drawn(*shape), f"{name}.bias": drawn(shape[0])}
    return state | {f"{block}layer_scale{n}.lambda1": drawn(width) for n in (1, 2)}


def _hibou_by_hand(state: dict[str, torch.Tensor], image: torch.Tensor, heads: int) -> torch.Tensor:
    """The class token of a vision transformer with registers, layer scale and SwiGLU, of one image (3, 224, 224)."""
    block = {name.removeprefix("encoder.layer.0."): value for name, value in state.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"], 1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ block[f"{name}.weight"].T + block[f"{name}.bias"]

    kernel = state["embeddings.patch_embeddings.projection.weight"]
    maps = nn.functional.conv2d(image[None], kernel, state["embeddings.patch_embeddings.projection.bias"], stride=14)
    tokens = (
        torch.cat([state["embeddings.cls_token"][0], maps[0].flatten(1).T]) + state["embeddings.position_embeddings"][0]
    )
    x = torch.cat([tokens[:1], state["embeddings.register_tokens"][0], tokens[1:]])
    y = norm(x, "norm1")
    parts = [linear(y, f"attention.attention.{name}").chunk(heads, dim=1) for name in ("query", "key", "value")]
    seen = [torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v for q, k, v in zip(*parts, strict=True)]
    x = x + linear(torch.cat(seen, dim=1), "attention.output.dense") * block["layer_scale1.lambda1"]
    gate, value = linear(norm(x, "norm2"), "mlp.weights_in").chunk(2, dim=1)
    x = x + linear(nn.functional.silu(gate) * value, "mlp.weights_out") * block["layer_scale2.lambda1"]
    return norm(x, "layernorm")[0]


@pytest.fixture
def small_hibou(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CATALOGUE["hibou-b"]
    small = {**entry.arguments, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setitem(CATALOGUE, "hibou-b", replace(entry, arguments=small))  # type: ignore[arg-type]


def _write_folder(folder: Path, state: dict[str, torch.Tensor]) -> str:
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    remote = {"AutoModel": "modeling_dinov2.Dinov2ModelWithRegisters"}
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", "auto_map": remote}))
    (folder / "modeling_dinov2.py").write_text("raise SystemExit('code from the hub was run')")
    return str(folder)


def test_hibou_is_read_without_code_from_the_hub(small_hibou: None, tmp_path: Path) -> None:
    _installed("transformers")
    state, image = _published(24, 64), torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(1))
    made = build_named("hibou-b", _write_folder(tmp_path, state))
    with torch.inference_mode():
        found = made.readout("auto").eval()(image[None])[0]
    torch.testing.assert_close(found, _hibou_by_hand(state, image, heads=2), rtol=1e-4, atol=1e-5)


def test_weights_that_transformers_would_leave_random_are_refused(small_hibou: None, tmp_path: Path) -> None:
    _installed("transformers")
    state = _published(24, 64)
    del state["embeddings.register_tokens"]
    with pytest.raises(ConfigError, match=r"lacks 1 of the encoder's tensors, 'embeddings.register_tokens' among them"):
        build_named("hibou-b", _write_folder(tmp_path, state))
