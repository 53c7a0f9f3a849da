from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.nets.baselines import BINS, build_baseline, definition_sha256, is_baseline
from sgcl_cli.nets.resnet import ResNet


def test_the_mean_colour_is_that_of_the_pixels() -> None:
    images = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(build_baseline("mean-colour")(images), images.numpy().mean((2, 3)), rtol=1e-5)


def test_the_histogram_counts_every_pixel_in_one_bin_with_blue_fastest() -> None:
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0] = 1.0
    shares = build_baseline("colour-histogram")(images)
    for image, found in zip(images.numpy(), shares.numpy(), strict=True):
        wanted, _ = np.histogramdd(image.reshape(3, -1).T, bins=BINS, range=[(0, 1)] * 3)
        np.testing.assert_allclose(found, wanted.ravel() / 36, atol=1e-6)
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("mean-colour", True),
        ("random:resnet18", True),
        ("random:timm:x", False),
        ("resnet18", False),
        ("random:", False),
    ],
)
def test_names_of_baselines(name: str, known: bool) -> None:
    assert is_baseline(name) is known


def test_random_weights_follow_the_generator() -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(build_baseline("random:resnet18"))
    assert all(isinstance(network, ResNet) for network in made)
    first, same, other = (network.conv1.weight for network in made)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_the_hash_of_a_colour_baseline_is_the_one_that_artefacts_hold() -> None:
    assert definition_sha256("mean-colour") != definition_sha256("colour-histogram")
    assert len(definition_sha256("mean-colour")) == 64
