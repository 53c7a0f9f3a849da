from __future__ import annotations

import io
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image

from sgcl_cli.report.drawing import PALETTE, DrawnFigure, colour, sheet, short


def drawn(title: str = "Title", **sizes: float) -> DrawnFigure:
    with sheet(title, **sizes) as made:
        made.axes.plot([0, 1], [0, 1])
    return made.drawn


def test_short_keeps_names_that_fit_and_ends_others_with_an_ellipsis() -> None:
    assert short("x" * 24) == "x" * 24
    assert short("x" * 25) == "x" * 23 + "…"
    assert short("tumour", 4) == "tum…"


def test_colours_repeat_after_the_last() -> None:
    assert [colour(number) for number in range(9)] == list(PALETTE)
    assert (colour(9), colour(19)) == (PALETTE[0], PALETTE[1])


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
