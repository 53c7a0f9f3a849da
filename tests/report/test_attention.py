from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.report import attention as drawing

SIDES = np.array([100.0, 100.0])


def tinted(thumbnail: np.ndarray, coords: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Two patches, of which the first has nine tenths of the attention."""
    placed = drawing.PlacedPatches(thumbnail, coords, SIDES, scale)
    return drawing.overlay(placed, drawing.relative(np.array([0.9, 0.1])))


def test_multiples_of_the_mean_are_octaves_within_bounds() -> None:
    found = drawing.relative(np.array([0.25, 0.25, 0.5, 0.0], dtype=np.float32))
    assert found == pytest.approx([0, 0, 1, -3])
    assert drawing.relative(np.full(5, 0.2)) == pytest.approx([0] * 5)
    assert drawing.relative(np.array([1.0])) == pytest.approx([0])


def test_more_attention_is_redder_and_less_is_bluer() -> None:
    low, mean, high = drawing.colours(np.array([-3.0, 0.0, 3.0]))
    assert high[0] > high[2] and low[2] > low[0] and min(mean) > 230


def test_a_patch_is_tinted_where_it_lies_and_nothing_else_is() -> None:
    thumbnail = np.full((1000, 1500, 3), 200, np.uint8)
    coords = np.array([[0, 0], [1400, 300]])
    picture = tinted(thumbnail, coords, (1.0, 1.0))
    assert picture.shape == (1000 + 244, 1500, 3)
    assert picture[50, 50, 0] > picture[50, 50, 2] and picture[350, 1450, 2] > picture[350, 1450, 0]
    assert (picture[500, 500] == 200).all() and (picture[99, 101] == 200).all() and (picture[101, 99] == 200).all()


def test_small_thumbnails_are_enlarged_and_scales_apply_to_both_axes() -> None:
    thumbnail = np.full((50, 100, 3), 200, np.uint8)
    picture = tinted(thumbnail, np.array([[100, 0], [0, 0]]), (10.0, 20.0))
    assert picture.shape[:2] == (500 + 162, 1000)
    assert picture[25, 150, 0] > picture[25, 150, 2] and picture[25, 50, 2] > picture[25, 50, 0]
    assert (picture[60, 150] == 200).all(), "100 level-0 pixels are 5 rows of the thumbnail"


def test_overlapping_patches_show_their_mean() -> None:
    thumbnail = np.full((1000, 1000, 3), 100, np.uint8)
    alone = tinted(thumbnail, np.array([[0, 0], [50, 0]]), (1.0, 1.0))
    left, middle, right = (int(alone[50, x, 0]) - int(alone[50, x, 2]) for x in (25, 75, 125))
    assert right < middle < left


def test_a_scale_that_is_not_even_is_pale_at_its_middle_and_ends_at_its_ends() -> None:
    scale = drawing.ColourScale(0.0, 0.25, 1.0, ("0", "1/4", "1"), "probability")
    low, middle, high, beyond = drawing.colours(np.array([0.0, 0.25, 1.0, 9.0]), scale)
    np.testing.assert_allclose(middle, drawing.colours(np.zeros(1))[0])
    np.testing.assert_allclose(low, drawing.colours(np.array([-3.0]))[0])
    np.testing.assert_allclose(high, drawing.colours(np.array([3.0]))[0])
    np.testing.assert_allclose(beyond, high)


def test_patches_are_painted_in_colours_of_their_own_and_those_beyond_the_slide_are_cut() -> None:
    placed = drawing.PlacedPatches(
        np.full((1000, 1000, 3), 100, np.uint8), np.array([[0, 0], [950, 0], [-300, -300]]), SIDES, (1.0, 1.0)
    )
    picture = drawing.painted(placed, np.array([[200, 100, 100], [100, 100, 250], [0, 0, 0]], np.uint8))
    assert picture.shape == (1000, 1000, 3)
    assert picture[50, 50].tolist() == [162, 100, 100] and picture[50, 990].tolist() == [100, 100, 193]
    assert (picture[500, 500] == 100).all()


def test_a_montage_has_every_patch_in_its_row() -> None:
    red, blue = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = drawing.montage([("most", [(red, 2.0), (red, 1.5)]), ("least", [(blue, 0.1)])], side=64)
    counted = [int((sheet == colour).all(-1).sum()) for colour in ((255, 0, 0), (0, 0, 255))]
    assert counted == [2 * 64 * 64, 64 * 64]
    tall = (sheet == (255, 0, 0)).all(-1).nonzero()[0].max()
    assert tall < (sheet == (0, 0, 255)).all(-1).nonzero()[0].min()
