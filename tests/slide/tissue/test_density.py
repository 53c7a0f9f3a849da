from __future__ import annotations

import cv2
import numpy as np
import pytest

from sgcl_cli.slide.tissue.density import (
    Density,
    box_spread,
    coherence,
    colour,
    in_strips,
    optical_density,
    spread,
    strongest,
    weakest,
)


def test_optical_density_of_white_black_and_between():
    density = optical_density(np.array([[[255, 127, 0]]], np.uint8))
    assert density[0, 0] == pytest.approx([0, np.log(2), np.log(256)], abs=1e-6)


def test_spread_is_the_standard_deviation_of_the_window():
    noise = np.random.default_rng(0).normal(2, 0.3, (200, 200)).astype(np.float32)
    assert spread(noise, 8.0)[40:-40, 40:-40].mean() == pytest.approx(0.3, rel=0.02)
    assert box_spread(noise, 5)[100, 100] == pytest.approx(noise[98:103, 98:103].std(), rel=1e-3)
    assert box_spread(np.full((9, 9), 3.0, np.float32)).max() < 1e-3


def test_an_edge_is_coherent_and_noise_is_not():
    edge = np.zeros((60, 60), np.float32)
    cv2.line(edge, (0, 20), (59, 40), 1.0, 3)
    assert coherence(edge, 3.0)[30, 30] > 0.9
    noise = np.random.default_rng(0).normal(0, 1, (60, 60)).astype(np.float32)
    assert coherence(noise, 3.0).mean() < 0.5
    assert np.isfinite(coherence(np.zeros((9, 9), np.float32), 1.0)).all()


def test_channels_are_compared_pixel_by_pixel():
    density = np.random.default_rng(0).normal(0, 1, (5, 7, 3)).astype(np.float32)
    assert np.array_equal(strongest(density), density.max(axis=2))
    assert np.array_equal(weakest(density), density.min(axis=2))
    assert np.allclose(colour(density), np.ptp(density, axis=2))


@pytest.mark.parametrize("rows", [7, 16, 100])
def test_strips_give_what_the_whole_gives(rows):
    image = np.random.default_rng(0).normal(0, 1, (61, 20)).astype(np.float32)

    def local(part):
        return cv2.blur(part, (5, 5)) > 0

    assert np.array_equal(in_strips(local, image, 2, rows), local(image))
    assert not np.array_equal(in_strips(local, image, 0, 7), local(image))


def test_strips_are_the_whole_image_above_glass():
    """In pieces or at once, as the definition says: -ln((I + 1) / 256), less glass, and 0 where it is clear."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (700, 40, 3), np.uint8)
    glass, clear = np.array([0.1, 0.02, 0.3], np.float32), rng.uniform(size=(700, 40)) < 0.2
    density = Density(rgb).above(glass, clear)
    expected = -np.log((rgb.astype(np.float64) + 1) / 256) - glass
    expected[clear] = 0
    assert density.shape == rgb.shape and len(density) == 700
    np.testing.assert_allclose(np.concatenate([density[:300], density[300:]]), expected, atol=1e-6)
    blurred = in_strips(lambda part: cv2.blur(part[..., 1], (5, 5)), density, 2, rows=64, kind=np.float32)
    np.testing.assert_allclose(blurred, cv2.blur(density[:][..., 1], (5, 5)), atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.1, 1e-3])
def test_the_median_is_that_of_all_pixels(share):
    rng = np.random.default_rng(1)
    rgb, where = rng.integers(0, 256, (61, 50, 3), np.uint8), rng.uniform(size=(61, 50)) < share
    expected = np.median(optical_density(rgb)[where], axis=0)
    assert Density(rgb).median(where).tolist() == expected.astype(np.float32).tolist()
    assert Density(rgb).median(np.zeros_like(where)) is None
