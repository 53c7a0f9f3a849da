from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.tissue import nuclei


def blobs(width: int, seed: int = 0, background: int = 215) -> NDArray[np.uint8]:
    """Dark discs of one width, some of which touch, on a noisy ground."""
    random = np.random.default_rng(seed)
    picture = np.full((512, 512, 3), background, np.float32)
    for x, y in random.integers(0, 512, (40, 2)).tolist():
        cv2.circle(picture, (x, y), width // 2, (70, 60, 120), cv2.FILLED)
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [9, 15, 23, 31])
def test_the_width_of_blobs_is_measured(width):
    found = nuclei.diameter(blobs(width, seed) for seed in range(4))
    assert found == pytest.approx(width, abs=2.5)


def test_glass_and_too_few_places_tell_nothing():
    bare = np.full((512, 512, 3), 240, np.uint8)
    assert nuclei.diameter([bare] * 6) is None
    assert nuclei.diameter([blobs(15), blobs(15, 1), bare, bare]) is None


@pytest.mark.parametrize(
    ("pixels", "mpp", "doubtful"),
    [(19, 0.25, False), (19, 0.5, False), (19, 0.64, True), (19, 0.09, True), (8, 2.0, False), (9, 0.2, True)],
)
def test_what_is_off_by_more_than_two_and_a_half_is_doubted(pixels, mpp, doubtful):
    assert nuclei.implausible(pixels, mpp) is doubtful


@pytest.mark.parametrize(
    ("name", "corner", "right", "wrong"),
    [
        ("wsi/metaplasia_HE.svs", (4000, 4000), 0.2528, 1.0),
        ("labelled/bcss_1015.tif", (1000, 200), 0.25, 0.06),
        ("ink/spleen_dense.tif", (500, 200), 0.5043, 0.1),
    ],
)
def test_real_nuclei(real_data: Path, name, corner, right, wrong):
    with Slide(real_data / name, given_mpp=right) as slide:
        places = [slide.pixels(0, (corner[0] + 512 * n, corner[1]), (512, 512)) for n in range(4)]
    size = nuclei.diameter(places)
    assert size is not None and 3.5 < size * right < 5.5
    assert not nuclei.implausible(size, right) and nuclei.implausible(size, wrong)
