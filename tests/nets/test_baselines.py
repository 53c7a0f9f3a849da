"""Encoders without training."""

from __future__ import annotations

import pytest
import torch

from sgcl_cli.nets.baselines import build_baseline, definition_sha256, is_baseline


def test_mean_colour() -> None:
    image = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]], [[0.25, 0.75]]])[None]
    assert build_baseline("mean-colour")(image).tolist() == [[0.5, 0.5, 0.5]]


def test_histogram_equals_a_loop_over_pixels() -> None:
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = build_baseline("colour-histogram")(images)
    for image, shares in zip(images, found, strict=True):
        expected = [0.0] * 512
        for y in range(5):
            for x in range(7):
                red, green, blue = (int(float(image[c, y, x]) * 8) for c in range(3))
                expected[64 * red + 8 * green + blue] += 1 / 35
        assert shares.tolist() == pytest.approx(expected, abs=1e-6)


def test_white_is_in_the_last_bin_and_black_in_the_first() -> None:
    shares = build_baseline("colour-histogram")(torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 2, 2))
    assert (float(shares[0, 0]), float(shares[1, 511])) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean-colour", True),
        ("colour-histogram", True),
        ("random:resnet18", True),
        ("random:absent", False),
        ("resnet18", False),
        ("random:", False),
    ],
)
def test_names(name: str, expected: bool) -> None:
    assert is_baseline(name) is expected


def test_random_weights_follow_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([value.flatten() for value in build_baseline("random:resnet18").parameters()])

    first = weights(0)
    assert torch.equal(weights(0), first) and not torch.equal(weights(1), first)


def test_each_definition_has_a_hash_of_its_own() -> None:
    hashes = {definition_sha256(name) for name in ("mean-colour", "colour-histogram")}
    assert len(hashes) == 2 and {len(one) for one in hashes} == {64}
