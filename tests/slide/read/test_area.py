from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.slide.read.area import align, average


def overlaps(count: int, scale: float, first: float, size: int) -> np.ndarray:
    """Share of each of ``count`` pixels in each of ``size`` intervals of length ``scale``, as plain loops."""
    weights = np.zeros((size, count))
    for index in range(size):
        low, high = first + index * scale, first + (index + 1) * scale
        for pixel in range(count):
            weights[index, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel)) / scale
    return weights


@pytest.mark.parametrize("scale", [0.95, 0.98895, 1.0, 1.05, 1.28, 1.5823, 1.6, 1.8, 1.95, 2.0, 2.3, 3.0, 4.7])
def test_averages_are_exact(scale):
    size = 64
    side = int(np.ceil(size * scale - 1e-6))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    weights = overlaps(side, scale, 0, size)
    expected = np.einsum("ij,jkc,lk->ilc", weights, pixels, weights)
    found = average(pixels, scale, (size, size))
    assert found.shape == (size, size, 3)
    assert np.abs(found - expected).max() <= 1.01  # two roundings to 8 bits, in each of two passes


def test_skip_and_shift_cut_the_same_place_out():
    pixels = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8)
    whole = average(pixels, 1.25, (60, 64))
    assert np.array_equal(average(pixels, 1.25, (20, 30), skip=(8, 4)), whole[4:34, 8:28])
    weights = overlaps(80, 2.0, 0.5, 32), overlaps(80, 2.0, 0.25, 32)
    expected = np.einsum("ij,jkc,lk->ilc", weights[1], pixels, weights[0])
    found = average(pixels, 2.0, (32, 32), shift=(0.5, 0.25))
    assert np.abs(found - expected).max() <= 1.5  # three roundings to 8 bits


@pytest.mark.parametrize("pitch", [1.0, 2.0, 4.0, 3.99918])
@pytest.mark.parametrize("extent", [256.0, 405.0633, 506.3291, 512.0, 1024.3])
def test_windows_meet_both_edges_to_half_a_pixel(pitch, extent):
    corners = np.array([300.0, 301.0, 1234.0, 4321.0])
    axis = align(corners, extent, 256, pitch, limit=10_000)
    left = (axis.start + axis.shift + axis.skip * axis.scale) * pitch
    assert axis.fits.all()
    assert np.abs(left - corners).max() <= 0.5
    assert np.abs(left + 256 * axis.scale * pitch - corners - extent).max() <= 0.5
    assert (axis.count >= (axis.skip + 256) * axis.scale + axis.shift - 1e-6).all()


def test_windows_beyond_the_source_do_not_fit():
    axis = align(np.array([0.0, 744.0, 745.0]), 256.0, 256, 1.0, limit=1000)
    assert axis.fits.tolist() == [True, True, False]
    assert axis.start[:2].tolist() == [0, 744] and (axis.skip[:2] == 0).all()
