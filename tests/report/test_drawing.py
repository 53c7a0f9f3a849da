from __future__ import annotations

import io
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.drawing import PALETTE, DrawnFigure, colour, dashes, sheet, short
from tests.slide.test_colours import DEUTAN, PROTAN, least, seen

Matrix = tuple[tuple[float, ...], ...]


def drawn(title: str = "Title", **sizes: float) -> DrawnFigure:
    with sheet(title, **sizes) as made:
        made.axes.plot([0, 1], [0, 1])
    return made.drawn


def test_short_keeps_names_that_fit_and_ends_others_with_an_ellipsis() -> None:
    assert short("x" * 24) == "x" * 24
    assert short("x" * 25) == "x" * 23 + "…"
    assert short("tumour", 4) == "tum…"


def test_colours_repeat_after_the_last_in_another_line_style() -> None:
    assert [colour(number) for number in range(8)] == list(PALETTE)
    assert (colour(8), colour(17)) == (PALETTE[0], PALETTE[1])
    assert len({(colour(number), str(dashes(number))) for number in range(24)}) == 24


@pytest.mark.parametrize(("matrix", "limit"), [(None, 20), (PROTAN, 12), (DEUTAN, 11)])
def test_eight_series_can_be_distinguished_with_any_colour_vision(matrix: Matrix | None, limit: float) -> None:
    """The smallest difference (CIEDE2000) between two colours, simulated after Machado et al. (2009)."""
    rgb = np.array([[*bytes.fromhex(one[1:])] for one in PALETTE], float)
    assert least(seen(rgb, matrix)) > limit


def test_a_sheet_has_its_size_in_inches_in_both_files() -> None:
    made = drawn(width=3.0, height=2.0)
    with Image.open(io.BytesIO(made.png)) as image:
        assert (image.format, image.size) == ("PNG", (480, 320))
    root = ElementTree.fromstring(made.svg)
    assert (root.get("width"), root.get("height")) == ("216pt", "144pt")


def test_the_same_numbers_give_the_same_bytes_without_a_date() -> None:
    made = drawn()
    assert made == drawn()
    assert made != drawn("Another title")
    assert b"<dc:date>" not in made.svg and b"Software" not in made.png


def test_a_sheet_leaves_the_global_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


def test_a_title_in_another_script_does_not_warn() -> None:
    assert len(drawn("肿瘤").png) > 0


def test_there_is_no_figure_before_the_block_ends() -> None:
    with sheet("Title") as made, pytest.raises(IndexError):
        _ = made.drawn
    assert made.drawn.png.startswith(b"\x89PNG")
