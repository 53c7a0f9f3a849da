from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.tissue.structure import FinerLook, share_of_cells, structured

Box = tuple[int, int, int, int]


def packed(height: int, width: int, amplitude: float = 40.0) -> NDArray[np.uint8]:
    """Dots of a few µm at 2 µm a pixel, all channels alike."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (height, width)), (0, 0), 1.2)
    return np.clip(90 + amplitude * noise / noise.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def ink(height: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).normal(0, 1, (height, width, 1))
    return np.clip(np.rint(np.array([40, 40, 90]) + noise), 0, 255).astype(np.uint8)


def test_cells_differ_from_their_surroundings_and_ink_does_not() -> None:
    assert share_of_cells(packed(200, 240), 2.0, (60, 50))[5:-5, 5:-5].min() > 0.6
    assert share_of_cells(ink(200, 240), 2.0, (60, 50)).max() < 0.1


def test_the_share_has_the_size_asked_for() -> None:
    share = share_of_cells(ink(40, 80), 2.0, (20, 10))
    assert share.shape == (10, 20) and share.dtype == np.float32


def test_only_the_channel_that_absorbs_most_counts() -> None:
    pixels = ink(200, 240)
    pixels[..., 2] = packed(200, 240)[..., 0]  # blue is the lightest channel of this ink
    assert share_of_cells(pixels, 2.0, (60, 50)).max() < 0.1
    pixels[..., 0] = packed(200, 240)[..., 0] // 4
    assert share_of_cells(pixels, 2.0, (60, 50)).mean() > 0.5


def test_places_with_cells_are_kept_and_others_are_not() -> None:
    whole = np.concatenate([packed(400, 400), ink(400, 400)], axis=1)

    def read(box: Box) -> NDArray[np.uint8]:
        left, top, right, bottom = (4 * side for side in box)
        return whole[top:bottom, left:right]

    places = np.zeros((100, 200), np.bool_)
    places[20:80, 20:180] = True
    found = structured(places, 8.0, FinerLook(4, read))
    assert found[20:80, 20:90].mean() > 0.98 and not found[:, 110:].any()
    assert not (found & ~places).any()


def test_pixels_are_read_around_the_places_alone() -> None:
    asked: list[Box] = []

    def read(box: Box) -> NDArray[np.uint8]:
        asked.append(box)
        return ink(4 * (box[3] - box[1]), 4 * (box[2] - box[0]))

    places = np.zeros((300, 300), np.bool_)
    places[0:5, 2:10] = places[150:160, 280:300] = True
    assert not structured(places, 8.0, FinerLook(4, read)).any()
    assert asked == [(0, 0, 18, 13), (272, 142, 300, 168)]  # 64 µm around, within the slide


@pytest.mark.parametrize("readable", [True, False])
def test_what_cannot_be_read_counts_as_structured(readable: bool) -> None:
    def read(box: Box) -> NDArray[np.uint8]:
        if not readable:
            raise SlideError("cannot be read")
        return ink(4 * (box[3] - box[1]), 4 * (box[2] - box[0]))

    places = np.zeros((40, 40), np.bool_)
    places[10:20, 10:20] = True
    expected = np.zeros_like(places) if readable else places
    assert np.array_equal(structured(places, 8.0, FinerLook(4, read)), expected)
