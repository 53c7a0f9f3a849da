from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.tissue.marks import black_mask, far_blue, far_red, hue_mask, hued_mask, ink_mask, line_mask
from sgcl_cli.slide.tissue.structure import FinerLook

MPP = 8.0
HAEMATOXYLIN, EOSIN = (0.7, 0.9, 0.3), (0.1, 0.9, 0.4)
BLUE_PEN, RED_PEN, BLACK_PEN = (1.2, 0.5, 0.1), (0.1, 0.6, 1.2), (1.2, 1.2, 1.2)
Mask = NDArray[np.bool_]


def slide(*blocks: tuple[slice, slice, tuple[float, float, float]]) -> NDArray[np.float32]:
    """Glass of 120 x 160 pixels with even blocks of a density."""
    density = np.zeros((120, 160, 3), np.float32)
    for rows, columns, colour in blocks:
        density[rows, columns] = colour
    return density


def nothing_stained(part: NDArray[np.float32]) -> Mask:
    return np.zeros(part.shape[:2], np.bool_)


def all_stained(part: NDArray[np.float32]) -> Mask:
    return np.ones(part.shape[:2], np.bool_)


def unreadable(_: object) -> NDArray[np.uint8]:
    raise SlideError("cannot be read")


def test_black_at_the_edge_is_a_border_and_black_inside_is_ink() -> None:
    black = (3.0, 3.0, 3.0)
    density = slide(
        (np.s_[:], np.s_[140:], black), (np.s_[30:60], np.s_[30:60], black), (np.s_[90:100], np.s_[30:40], black)
    )
    border, inside = black_mask(density, MPP)
    assert border[:, 136:].all() and not border[:, :130].any()
    assert inside[30:60, 30:60].all() and not inside[70:].any() and not (inside & border).any()


def test_one_clear_channel_is_not_black() -> None:
    border, inside = black_mask(slide((np.s_[30:60], np.s_[30:60], (3.0, 3.0, 1.0))), MPP)
    assert not border.any() and not inside.any()


def test_black_that_cannot_be_looked_at_more_closely_is_not_ink() -> None:
    density = slide((np.s_[30:60], np.s_[30:60], (3.0, 3.0, 3.0)))
    assert black_mask(density, MPP)[1].any()
    assert not black_mask(density, MPP, FinerLook(4, unreadable))[1].any()


@pytest.mark.parametrize(
    ("colour", "blue", "red"),
    [(HAEMATOXYLIN, False, False), (EOSIN, False, False), (BLUE_PEN, True, False), (RED_PEN, False, True)],
)
def test_hues_of_pens_are_not_those_of_stains(colour: tuple[float, float, float], blue: bool, red: bool) -> None:
    pixel = np.array([[colour]], np.float32)
    assert (far_blue(pixel).tolist(), far_red(pixel).tolist()) == ([[blue]], [[red]])


@pytest.mark.parametrize("colour", [BLUE_PEN, RED_PEN])
def test_a_pen_of_foreign_hue_is_found_with_a_margin(colour: tuple[float, float, float]) -> None:
    density = slide((np.s_[30:60], np.s_[30:60], colour), (np.s_[80:110], np.s_[30:60], EOSIN))
    found, exact = hue_mask(density, MPP), hued_mask(density, MPP)
    assert found[27:63, 31:59].all() and not found[70:].any()
    assert exact[31:59, 31:59].all() and not exact[:28].any() and not exact[62:].any()


def test_spots_of_a_foreign_hue_are_too_small_for_ink() -> None:
    density = slide((np.s_[30:35], np.s_[30:35], BLUE_PEN))  # 1600 µm²
    assert not hue_mask(density, MPP).any() and not hued_mask(density, MPP).any()


def test_an_even_stroke_is_ink_whatever_its_colour() -> None:
    stroke = slide((np.s_[30:60], np.s_[30:100], BLACK_PEN))
    found = ink_mask(stroke, MPP, nothing_stained, 2.0)
    assert found[30:60, 30:100].all() and found.mean() < 0.25
    uneven = stroke * np.random.default_rng(0).uniform(0.6, 1.4, (120, 160, 1)).astype(np.float32)
    assert not ink_mask(uneven, MPP, nothing_stained, 2.0).any()


def test_what_has_the_colour_of_the_stain_is_ink_only_where_it_is_denser() -> None:
    stroke = slide((np.s_[30:60], np.s_[30:100], BLACK_PEN))
    assert not ink_mask(stroke, MPP, all_stained, 2.0).any()
    assert ink_mask(stroke, MPP, all_stained, 1.0).any()


def test_even_strokes_are_not_looked_for_where_pixels_are_large_or_tissue_may_be_packed() -> None:
    stroke = slide((np.s_[30:60], np.s_[30:100], BLACK_PEN))
    assert not ink_mask(stroke, 16.5, nothing_stained, 2.0).any()
    assert not ink_mask(stroke, MPP, nothing_stained, 2.0, FinerLook(4, unreadable)).any()


@pytest.mark.parametrize(
    ("columns", "colour", "found"),
    [
        (np.s_[80:82], (0.5, 0.5, 0.5), True),
        (np.s_[60:100], (0.5, 0.5, 0.5), False),
        (np.s_[80:82], (0.2, 0.5, 0.2), False),
    ],
)
def test_a_line_is_thin_and_colourless(columns: slice, colour: tuple[float, float, float], found: bool) -> None:
    lines = line_mask(slide((np.s_[:], columns, colour)), MPP)
    assert bool(lines[20:100, 81].all() and lines.mean() < 0.1) is found and bool(lines[20:100].any()) is found
