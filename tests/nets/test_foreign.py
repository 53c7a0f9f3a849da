"""timm and transformers stand in as modules with their true call signatures, as timm 1.0 and transformers 5 have them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.foreign import Preprocessing, build_foreign, is_foreign, is_plain_timm


class _TimmVit(nn.Module):
    """As timm's vision transformers show themselves: prefix tokens, forward_features, and a pooled forward."""

    def __init__(self, registers: int = 1) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.num_prefix_tokens = 1 + registers
        self.proj = nn.Conv2d(3, 4, 16, 16)
        self.pretrained_cfg = {}

    def forward_features(self, x: Tensor) -> Tensor:
        patches = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), self.num_prefix_tokens, -1), patches], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)[:, 0]


class _TimmSwin(nn.Module):
    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 16, 16)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((1, 2))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module named timm; returns the list of calls of create_model."""
    calls: list[dict[str, Any]] = []

    def create_model(
        model_name: str, pretrained: bool = False, checkpoint_path: Any = None, **kwargs: Any
    ) -> nn.Module:
        calls.append({"name": model_name, "pretrained": pretrained, **kwargs})
        assert kwargs.pop("num_classes") == 0
        if model_name == "swin":
            if kwargs:
                raise TypeError(f"__init__() got an unexpected keyword argument '{next(iter(kwargs))}'")
            return _TimmSwin()
        if model_name not in ("vit_a", "hf-hub:org/vit_a"):
            raise RuntimeError(f"Unknown model ({model_name})")
        return _TimmVit()

    def resolve_model_data_config(model: nn.Module, args: Any = None, pretrained_cfg: Any = None) -> dict[str, Any]:
        return {
            "input_size": (3, 32, 32),
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "crop_pct": 0.9,
            "crop_mode": "center",
        }

    library, data = ModuleType("timm"), ModuleType("timm.data")
    library.create_model, library.data, data.resolve_model_data_config = create_model, data, resolve_model_data_config
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return calls


def test_names() -> None:
    foreign = ("timm:a", "timm:hf-hub:o/a", "transformers:o/a", "package.module:factory", "module:f")
    assert all(map(is_foreign, foreign))
    assert not any(map(is_foreign, ("run", "a/b.pth", "resnet18", "a-b:c", "x:y:z", "C:\\runs\\a")))
    assert is_plain_timm("timm:vit_tiny_patch16_224.augreg_in21k")
    assert not any(map(is_plain_timm, ("timm:hf-hub:o/a", "timm:local-dir:a", "timm:../a", "os:system")))


def test_timm_and_its_recorded_transform(timm: list) -> None:
    made = build_foreign("timm:vit_a", pretrained=True)
    assert timm == [{"name": "vit_a", "pretrained": True, "num_classes": 0, "dynamic_img_size": True}]
    assert made.feed == Preprocessing(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 35, "bicubic")
    build_foreign("timm:hf-hub:org/vit_a", pretrained=False)
    assert timm[-1]["name"] == "hf-hub:org/vit_a" and timm[-1]["pretrained"] is False


def test_timms_tokens(timm: list) -> None:
    made = build_foreign("timm:vit_a", pretrained=False)
    x = torch.randn(2, 3, 32, 32)
    tokens = made.network.forward_features(x)
    assert tokens.shape == (2, 6, 4)
    assert torch.equal(made.readout("auto")(x), made.network(x))
    assert torch.equal(made.readout("mean")(x), tokens[:, 2:].mean(1))
    assert torch.equal(made.readout("cls+mean")(x), torch.cat([tokens[:, 0], tokens[:, 2:].mean(1)], 1))
    assert torch.equal(made.readout("auto").maps(x), tokens[:, 2:].transpose(1, 2).reshape(2, 4, 2, 2))


def test_timms_that_take_one_size_and_give_channels_last(timm: list) -> None:
    made = build_foreign("timm:swin", pretrained=False)
    assert [set(call) - {"name", "pretrained"} for call in timm] == [
        {"num_classes", "dynamic_img_size"},
        {"num_classes"},
    ]
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(made.readout("mean")(x), made.network(x))
    assert torch.equal(made.readout("auto").maps(x), made.network.forward_features(x).permute(0, 3, 1, 2))


def test_timm_that_does_not_know_the_name(timm: list) -> None:
    with pytest.raises(ConfigError, match=r"timm cannot build 'nope': Unknown model \(nope\) .*--weights"):
        build_foreign("timm:nope", pretrained=False)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_an_absent_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"{library}:a needs {library}, .*pip install 'sgcl\[{library}\]'"):
        build_foreign(f"{library}:a", pretrained=False)


class _HubModel(nn.Module):
    """As a transformers vision model shows itself."""

    def __init__(self, tokens_before: int, patch: Any = 16) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=patch)
        self.before = tokens_before
        self.proj = nn.Conv2d(3, 4, 16, 16)
        self.pooler = nn.Linear(4, 4)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        patches = self.proj(pixel_values).flatten(2).transpose(1, 2)
        first = torch.full((len(patches), self.before, 4), 7.0)
        hidden = torch.cat([first, patches], 1)
        return SimpleNamespace(last_hidden_state=hidden, pooler_output=self.pooler(hidden[:, 0]))


class _HubConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.proj = nn.Conv2d(3, 4, 16, 16)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.proj(pixel_values), pooler_output=None)


class _HubClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_model = _HubModel(1)
        self.config = SimpleNamespace(vision_config=self.vision_model.config)

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=self.vision_model(pixel_values).last_hidden_state[:, 0] * 2)


PROCESSOR = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "do_center_crop": None,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.2, 0.2, 0.2],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module named transformers; ``model`` and ``processor`` of the returned dict are what it gives."""
    given: dict[str, Any] = {"model": _HubModel(1), "processor": dict(PROCESSOR), "calls": []}

    def from_pretrained(kind: str, key: str) -> Any:
        def make(pretrained_model_name_or_path: str) -> Any:
            given["calls"].append((kind, pretrained_model_name_or_path))
            if pretrained_model_name_or_path == "absent":
                raise OSError("absent is not a local folder and is not a valid model identifier")
            return SimpleNamespace(**given[key]) if key == "processor" else given[key]

        return make

    library = ModuleType("transformers")
    library.AutoModel = SimpleNamespace(
        from_pretrained=from_pretrained("model", "model"), from_config=lambda config: given["model"]
    )
    library.AutoConfig = SimpleNamespace(from_pretrained=from_pretrained("config", "model"))
    library.AutoImageProcessor = SimpleNamespace(from_pretrained=from_pretrained("processor", "processor"))
    monkeypatch.setitem(sys.modules, "transformers", library)
    return given


def test_transformers_and_its_processor(hub: dict) -> None:
    made = build_foreign("transformers:org/vit", pretrained=True)
    assert hub["calls"] == [("model", "org/vit"), ("processor", "org/vit")]
    assert made.feed == Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 32, "bicubic") and made.optional == (
        "pooler.",
    )
    build_foreign("transformers:org/vit", pretrained=False)
    assert hub["calls"][2:] == [("config", "org/vit"), ("processor", "org/vit")]


@pytest.mark.parametrize(
    ("change", "feed"),
    [
        (
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            (32, 40, "bicubic"),
        ),
        ({"size": 32, "resample": 2}, (32, 32, "bilinear")),
        ({"size": SimpleNamespace(shortest_edge=None, height=48, width=48)}, (48, 48, "bicubic")),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 32}, (32, None, None)),
    ],
)
def test_processors_sizes(hub: dict, change: dict, feed: tuple) -> None:
    hub["processor"].update(change)
    found = build_foreign("transformers:a", pretrained=True).feed
    assert (found.input_size, found.resize, found.interpolation) == feed


def test_processors_numbers(hub: dict) -> None:
    hub["processor"].update(rescale_factor=1.0, image_mean=[127.5] * 3, image_std=[51.0] * 3)
    found = build_foreign("transformers:a", pretrained=True).feed
    assert found.mean == pytest.approx((0.5, 0.5, 0.5)) and found.std == pytest.approx((0.2, 0.2, 0.2))
    hub["processor"].update(PROCESSOR, do_normalize=False)
    found = build_foreign("transformers:a", pretrained=True).feed
    assert found.mean == (0, 0, 0) and found.std == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"height": 32, "width": 48}}, "is not square"),
        ({"resample": 1}, "resamples by PIL's method 1"),
        ({"do_resize": False}, "does not define an input size"),
    ],
)
def test_processors_that_are_not_supported(hub: dict, change: dict, message: str) -> None:
    hub["processor"].update(change)
    with pytest.raises(ConfigError, match=message):
        build_foreign("transformers:a", pretrained=True)


@pytest.mark.parametrize(("before", "patch"), [(1, 16), (5, 16), (0, 16), (0, (2, 2))])
def test_transformers_tokens(hub: dict, before: int, patch: Any) -> None:
    hub["model"] = _HubModel(before, patch)
    made = build_foreign("transformers:a", pretrained=True)
    x = torch.randn(2, 3, 32, 32)
    patches = made.network.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(made.readout("mean")(x), patches.mean(1))
    expected = torch.full((2, 4), 7.0) if before else patches.mean(1)
    torch.testing.assert_close(made.readout("auto")(x), expected)
    if isinstance(patch, int) or not before:
        torch.testing.assert_close(made.readout("auto").maps(x), made.network.proj(x))


def test_transformers_maps_and_image_text_models(hub: dict) -> None:
    x = torch.randn(2, 3, 32, 32)
    hub["model"] = _HubConvolutions()
    torch.testing.assert_close(
        build_foreign("transformers:a", pretrained=True).readout("auto")(x), hub["model"].proj(x).mean((2, 3))
    )
    hub["model"] = _HubClip()
    made = build_foreign("transformers:a", pretrained=True)
    assert torch.equal(made.readout("auto")(x), torch.full((2, 4), 14.0))
    assert made.readout("cls+mean")(x).shape == (2, 8)
    assert torch.equal(made.readout("auto").maps(x), hub["model"].vision_model.proj(x))


def test_transformers_that_finds_nothing(hub: dict) -> None:
    with pytest.raises(
        ConfigError, match=r"transformers cannot build 'absent': absent is not a local folder .*or a folder"
    ):
        build_foreign("transformers:absent", pretrained=True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_encoders.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def fed(): return plain(), {'input_size': 48, 'mean': [0, 0, 0], 'mpp': 0.25}\n"
        "def number(): return 3\n"
        "def odd(): return plain(), {'size': 48}\n"
        "def broken(): raise ValueError('no weights here')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)
    return "my_encoders"


def test_a_function_of_ones_own_in_the_working_folder(own: str) -> None:
    path = list(sys.path)
    made = build_foreign(f"{own}:plain", pretrained=False)
    assert made.feed == Preprocessing()
    assert made.readout("auto")(torch.ones(2, 3, 8, 8)).tolist() == [[1, 1, 1]] * 2
    assert build_foreign(f"{own}:fed", pretrained=False).feed == Preprocessing(48, (0.0, 0.0, 0.0), mpp=0.25)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", r"my_encoders:number returned a int .*torch module"),
        ("odd", r"returned a Sequential with size .*input_size"),
        ("broken", "cannot be called: ValueError: no weights here"),
        ("absent", "cannot be called: AttributeError"),
    ],
)
def test_functions_that_give_no_encoder(own: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_foreign(f"{own}:{name}", pretrained=False)
