from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.slide.tissue import morphology


def mask(text: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in text.split()])


def test_pieces_by_area_and_by_what_they_hold():
    drawn = mask("##...#. ##...#. .....#. #......")
    assert np.array_equal(morphology.pieces(drawn, 3), mask("##...#. ##...#. .....#. ......."))
    marked = mask("#....#. .....#. ....... .......")
    assert np.array_equal(morphology.pieces_holding(drawn, marked, 0.5), mask(".....#. .....#. .....#. ......."))
    assert np.array_equal(morphology.pieces_holding(drawn, marked, 0), morphology.pieces(drawn, 3))


def test_small_holes_are_filled_and_the_edge_is_no_hole():
    drawn = mask("##### #.#.. ##### #...# #####")
    assert np.array_equal(morphology.fill_holes(drawn, 2), mask("##### ###.. ##### #...# #####"))
    assert np.array_equal(morphology.fill_holes(drawn, 3), mask("##### ###.. ##### ##### #####"))


@pytest.mark.parametrize("change", [morphology.close, morphology.opened, morphology.dilate])
def test_beyond_the_edge_the_image_goes_on(change):
    half = np.zeros((20, 20), bool)
    half[:, :10] = True
    changed = change(half, 5)
    assert (changed == changed[0]).all()


def test_discs_are_as_wide_as_told():
    point = np.zeros((21, 21), bool)
    point[10, 10] = True
    grown = morphology.dilate(point, 3)
    assert grown[10].sum() == 7 and not morphology.opened(grown, 9).any()
    assert np.array_equal(morphology.opened(grown, 7), grown)
