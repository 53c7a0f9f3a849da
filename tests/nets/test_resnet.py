from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from openslide import OpenSlide
from safetensors import safe_open
from torch.nn.functional import normalize

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.method.diagnostics import pair_similarity
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.resnet import RESNETS, Projector

# Parameter counts of torchvision's models without their last layer (fc): 11,689,512 - 513,000 and so on.
PARAMETERS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}
SIZES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


@pytest.mark.parametrize("name", RESNETS)
def test_sizes(name: str) -> None:
    model = ENCODERS[name]().eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model.embedding_size == SIZES[name]
    with torch.inference_mode():
        for side in (32, 56):
            assert model(torch.zeros(2, 3, side, side)).shape == (2, SIZES[name])


def _expected_names(name: str) -> dict[str, tuple[int, ...]]:
    """torchvision's state dict without fc, written out by its construction rule."""
    depths = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}[name]
    wide = 4 if name == "resnet50" else 1
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(prefix: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.{part}"] = (width,)
        shapes[f"{prefix}.num_batches_tracked"] = ()

    norm("bn1", 64)
    width_in = 64
    for layer, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
        for block in range(depth):
            at = f"layer{layer}.{block}"
            kernels = (
                [(width, width_in, 1), (width, width, 3), (4 * width, width, 1)]
                if wide == 4
                else [(width, width_in, 3), (width, width, 3)]
            )
            for number, (out, into, side) in enumerate(kernels, 1):
                shapes[f"{at}.conv{number}.weight"] = (out, into, side, side)
                norm(f"{at}.bn{number}", out)
            if block == 0 and (layer > 1 or wide == 4):
                shapes[f"{at}.downsample.0.weight"] = (wide * width, width_in, 1, 1)
                norm(f"{at}.downsample.1", wide * width)
            width_in = wide * width
    return shapes


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_of_the_exported_file_are_torchvisions(name: str, tmp_path: Path) -> None:
    card = EncoderCard(name, SIZES[name], 224, (0.5,) * 3, (0.5,) * 3, 0.5, 256)
    save_encoder(tmp_path, card, ENCODERS[name]().state_dict())
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert found == _expected_names(name)


def test_projector_has_no_batch_norm() -> None:
    projector = Projector(512, 128)
    assert projector(torch.zeros(1, 512)).shape == (1, 128)
    assert [tuple(p.shape) for p in projector.parameters()] == [(512, 512), (512,), (128, 512), (128,)]


def test_projector_starts_as_published() -> None:
    """Kaiming normal, fan-in: weights of variance 2 / 512 in both layers; biases 0."""
    torch.manual_seed(0)
    projector = Projector(512, 128)
    for layer in (projector.hidden, projector.out):
        assert not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)
        kurtosis = (layer.weight / layer.weight.std()).detach().pow(4).mean()  # uniform: 1.8
        assert float(kurtosis) == pytest.approx(3.0, abs=0.15)


def _tissue(count: int, side: int) -> torch.Tensor:
    """Patches of the sample slide with something on them, normalised: (count, 3, side, side)."""
    with OpenSlide(Path(__file__).parents[2] / "sample_data" / "slides" / "sample_generic_050.tif") as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    rows, columns = image.shape[0] // side, image.shape[1] // side
    tiles = image[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    tiles = tiles.reshape(-1, side, side, 3)
    dark = tiles[tiles.mean((1, 2, 3)) < 210]
    chosen = torch.from_numpy(dark[:: len(dark) // count][:count].copy()).permute(0, 3, 1, 2).float() / 255
    return (chosen - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_embeddings_of_sample_patches_at_the_start() -> None:
    """|z| = |h| / sqrt(2) in the mean over starts, as 2 * 128 / 512 of the square says; v far from all one.

    With torch's own start |z| is 0.12 |h|, so that a step of the same length turns v further.
    """
    images, found = _tissue(64, 64), []
    for seed in range(3):
        torch.manual_seed(seed)
        encoder, projector = ENCODERS["resnet18"]().train(), Projector(512, 128)
        with torch.no_grad():
            h = encoder(images)
            z = projector(h)
        found.append((float((z.norm(dim=1) / h.norm(dim=1)).mean()), float(pair_similarity(normalize(z, dim=1)))))
    ratio, cosine = np.array(found).T
    assert ratio.mean() == pytest.approx(math.sqrt(0.5), abs=0.06)
    assert (ratio > 0.5).all()
    assert (cosine > 0.7).all() and (cosine < 0.9).all()
