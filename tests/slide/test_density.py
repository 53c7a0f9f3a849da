from __future__ import annotations

import cv2
import numpy as np
import pytest

from sgcl_cli.slide.density import box_spread, coherence, optical_density, spread


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
