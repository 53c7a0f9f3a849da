from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.tissue import focus


def noise(sigma: float, contrast: float = 30.0, side: int = 256, seed: int = 0) -> NDArray[np.uint8]:
    """White noise smoothed by a Gaussian of ``sigma`` pixels, with a standard deviation of ``contrast`` grey levels."""
    field = np.random.default_rng(seed).normal(0, 1, (side + 64, side + 64)).astype(np.float32)
    smooth = cv2.GaussianBlur(field, (0, 0), sigma)[32:-32, 32:-32]
    grey = np.clip(np.rint(128 + contrast * smooth / smooth.std()), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def blur(patch: NDArray[np.uint8]) -> float:
    return float(focus.blur(focus.sample(patch)[None])[0])


@pytest.mark.parametrize(("sigma", "side"), [(1.0, 256), (1.5, 64), (1.5, 250), (2.5, 256), (4.0, 256)])
def test_finds_the_gaussian_that_smoothed_noise(sigma, side):
    found = [blur(noise(sigma, side=side, seed=seed)) for seed in range(8)]
    assert np.mean(found) == pytest.approx(sigma, rel=0.03)


def test_does_not_depend_on_the_strength_of_the_stain():
    strong, weak = (blur(noise(1.5, contrast)) for contrast in (40, 8))
    assert weak == pytest.approx(strong, rel=0.05)


@pytest.mark.parametrize("axis", [0, 1])
def test_sees_blur_in_either_direction(axis):
    moved = cv2.blur(noise(0.7), (1, 7) if axis else (7, 1))
    assert blur(moved) > 1.25 * blur(noise(0.7))


def test_patch_without_structure_has_none():
    assert np.isnan(blur(np.full((256, 256, 3), 240, np.uint8)))
    assert np.isnan(focus.blur(focus.sample(np.zeros((16, 16, 3), np.uint8))[None])).all()


def test_meter_measures_patches_in_their_order():
    meter = focus.BlurMeter()
    assert meter.blur().shape == (0,)
    patches = [noise(0.5 + 0.05 * number, side=64, seed=number) for number in range(70)]
    for patch in patches:
        meter.add(focus.encode(patch, 90))
    assert meter.blur().dtype == np.float32
    assert meter.blur() == pytest.approx([blur(patch) for patch in patches], rel=1e-5)


def test_real_tissue_in_and_out_of_focus(real_data):
    with Slide(real_data / "wsi" / "metaplasia_HE.svs") as slide:
        patches = [
            slide.region((x, y), (506, 506), (256, 256)) for x in range(2000, 9000, 1500) for y in (3000, 6000, 8000)
        ]
    sharp = [blur(patch) for patch in patches]
    far = [blur(cv2.GaussianBlur(patch, (0, 0), 2)) for patch in patches]
    assert min(sharp) > 0.7 and max(sharp) < 1.3 and min(far) > 2 * max(sharp)
