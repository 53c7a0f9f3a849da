from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.vit import VITS, VisionTransformer

# Of timm's vit_tiny_patch16_224 and vit_small_patch16_224 with num_classes=0.
PARAMETERS = {"vit_tiny": 5_524_416, "vit_small": 21_665_664}


def _expected_names(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """timm's state dict without its head, written out."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for number in range(depth):
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{number}.{norm}.weight"] = shapes[f"blocks.{number}.{norm}.bias"] = (width,)
        for name, (out, into) in linear.items():
            shapes[f"blocks.{number}.{name}.weight"] = (out * width, into * width)
            shapes[f"blocks.{number}.{name}.bias"] = (out * width,)
    return shapes


@pytest.mark.parametrize(("name", "width"), [("vit_tiny", 192), ("vit_small", 384)])
def test_names_shapes_and_counts_of_the_exported_file_are_timms(name: str, width: int, tmp_path: Path) -> None:
    model = ENCODERS[name]()
    save_encoder(tmp_path, EncoderCard(name, width, 224, (0.5,) * 3, (0.5,) * 3, 0.5, 256), model.state_dict())
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert found == _expected_names(width, 12)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model.embedding_size == width and model.blocks[0].attn.heads == VITS[name][2] == width // 64


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic kernel; antialiased interpolation uses a = -1/2, as PIL does."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _resampling(old: int, new: int) -> np.ndarray:
    """Rows of weights (new, old): the kernel as wide as the scale where that shrinks, normalised within the border."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale
        for j in range(max(0, int(centre - 2 * stretch + 0.5)), min(old, int(centre + 2 * stretch + 0.5))):
            weights[i, j] = _cubic((j + 0.5 - centre) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def _oracle(state: dict[str, np.ndarray], image: np.ndarray, heads: int, depth: int, patch: int) -> np.ndarray:
    """The class token of one image (3, H, W), by the equations, in float64."""

    def norm(x: np.ndarray, at: str) -> np.ndarray:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * state[f"{at}.weight"] + state[f"{at}.bias"]

    def linear(x: np.ndarray, at: str) -> np.ndarray:
        return x @ state[f"{at}.weight"].T + state[f"{at}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    _, height, width = image.shape
    rows, columns = height // patch, width // patch
    tokens = [state["cls_token"][0, 0]]
    for r in range(rows):
        for c in range(columns):
            square = image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            kernel = state["patch_embed.proj.weight"]
            tokens.append((kernel * square).sum(axis=(1, 2, 3)) + state["patch_embed.proj.bias"])
    x = np.stack(tokens)
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    lattice = state["pos_embed"][0, 1:].reshape(side, side, -1)
    down, across = _resampling(side, rows), _resampling(side, columns)
    if (rows, columns) == (side, side):
        down, across = np.eye(side), np.eye(side)
    moved = np.einsum("ar,rcd,bc->abd", down, lattice, across).reshape(rows * columns, -1)
    x = x + np.concatenate([state["pos_embed"][0, :1], moved])
    size = x.shape[1] // heads
    for block in range(depth):
        at = f"blocks.{block}"
        joint = linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv")
        query, key, value = np.split(joint, 3, axis=1)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            score = query[:, part] @ key[:, part].T / math.sqrt(size)
            share = np.exp(score - score.max(axis=1, keepdims=True))
            mixed.append(share / share.sum(axis=1, keepdims=True) @ value[:, part])
        x = x + linear(np.concatenate(mixed, axis=1), f"{at}.attn.proj")
        x = x + linear(gelu(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    return norm(x, "norm")[0]


@pytest.fixture
def tiny() -> VisionTransformer:
    torch.manual_seed(3)
    model = VisionTransformer(12, 2, 3, patch=4, native_size=28).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("height", "width"), [(28, 28), (12, 12), (40, 40), (12, 20)])
def test_the_numbers_are_the_equations(tiny: VisionTransformer, height: int, width: int) -> None:
    image = torch.randn(3, height, width, dtype=torch.float64)
    state = {key: value.numpy() for key, value in tiny.state_dict().items()}
    with torch.inference_mode():
        found = tiny(image[None])[0].numpy()
    expected = _oracle(state, image.numpy(), heads=3, depth=2, patch=4)
    # Resampled positions pass through float32, as in timm.
    tolerance = 1e-12 if (height, width) == (28, 28) else 2e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_class_tokens_position_is_not_resampled(tiny: VisionTransformer) -> None:
    assert torch.equal(tiny.positions(3, 3)[:, 0], tiny.pos_embed[:, 0])
    assert tiny.positions(7, 7) is tiny.pos_embed


def test_global_and_corner_views_run_in_one_model_and_train_all_of_it() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(12, 2, 3)
    loss = sum(model(torch.randn(2, 3, side, side)).square().sum() for side in (224, 96))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)


def test_initialisation_is_timms() -> None:
    torch.manual_seed(0)
    model = ENCODERS["vit_tiny"]()
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name == "cls_token":
            assert 0 < values.abs().max() < 1e-5
        elif name == "pos_embed" or (name.startswith("blocks") and parameter.ndim == 2):
            assert values.std().item() == pytest.approx(0.02, rel=0.03), name
            assert abs(values.mean().item()) < 4e-4
        elif name.startswith("blocks") and name.endswith("bias"):
            assert not values.any()


def test_sizes_that_do_not_divide_into_patches() -> None:
    with pytest.raises(ValueError, match="100 x 96 pixels do not divide into patches of 16"):
        ENCODERS["vit_tiny"]()(torch.zeros(1, 3, 96, 100))
