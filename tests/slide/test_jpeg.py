from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.slide import jpeg


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_file_is_baseline_with_halved_chroma() -> None:
    data = jpeg.encode(np.zeros((32, 48, 3), np.uint8), 90)
    start = data.index(b"\xff\xc0")  # SOF0, baseline
    height, width, components = (
        int.from_bytes(data[start + a : start + b], "big") for a, b in ((5, 7), (7, 9), (9, 10))
    )
    assert (height, width, components) == (32, 48, 3)
    assert [data[start + 11 + 3 * number] for number in range(3)] == [0x22, 0x11, 0x11]


@pytest.mark.parametrize("colour", [(200, 40, 90), (10, 240, 20), (30, 60, 220)])
def test_channels_are_red_green_blue(colour: tuple[int, int, int]) -> None:
    found = decoded(jpeg.encode(np.full((16, 16, 3), colour, np.uint8), 95))
    assert np.abs(found.astype(int) - colour).max() <= 3


def test_a_view_that_is_not_contiguous_is_encoded_as_seen(tissue_like: NDArray[np.uint8]) -> None:
    view = tissue_like[:64:2, 100:10:-1]
    assert jpeg.encode(view, 80) == jpeg.encode(view.copy(), 80)
    assert np.abs(decoded(jpeg.encode(view, 95)).astype(int) - view).mean() < 8


def test_quality_sets_the_size_and_the_error(tissue_like: NDArray[np.uint8]) -> None:
    patch = tissue_like[:256, :256]
    low, high = jpeg.encode(patch, 40), jpeg.encode(patch, 95)
    assert len(low) < 0.5 * len(high)
    errors = [np.abs(decoded(data).astype(float) - patch).mean() for data in (low, high)]
    assert errors[1] < errors[0]
