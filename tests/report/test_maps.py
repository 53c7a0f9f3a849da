from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.colour_scale import viridis
from sgcl_cli.report.maps import (
    BAR_NAME,
    MapPage,
    Panel,
    SlideMap,
    Tile,
    combined,
    crop,
    montage,
    paint,
    render,
    shade,
)
from tests.slide.test_colours import DEUTAN, PROTAN, seen

RED, BLUE, GLASS = (200, 0, 0), (0, 0, 200), (244, 246, 247)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_patches_are_painted_where_they_lie_and_glass_elsewhere() -> None:
    picture = pixels(paint(np.array([[5.0, 7.0], [7.0, 8.0]]), np.array([RED, BLUE], np.uint8)))
    assert picture.shape == (32, 48, 3)
    assert (picture[:16, :16] == RED).all() and (picture[16:, 32:] == BLUE).all()
    assert (picture[:16, 16:] == (244, 246, 247)).all()


def test_a_slide_with_more_patches_than_pixels_keeps_to_the_side() -> None:
    corners = np.stack(np.meshgrid(np.arange(40.0), np.arange(20.0)), -1).reshape(-1, 2)
    picture = pixels(paint(corners, np.full((800, 3), 90, np.uint8), side=10))
    assert picture.shape == (5, 10, 3) and (picture == 90).all()


def test_squares_have_whole_pixels() -> None:
    corners = np.arange(6.0)[:, None] * [1.0, 0.0]
    colours = np.arange(18, dtype=np.uint8).reshape(6, 3)
    picture = pixels(paint(corners, colours, side=20))
    assert picture.shape == (3, 18, 3)
    assert np.array_equal(picture[1], np.repeat(colours, 3, axis=0))


def test_a_montage_frames_the_first_patch_only() -> None:
    tiles = [Tile.of(np.full((8, 8, 3), 128, np.uint8), "0.9", "slide a")] * 5
    picture = pixels(montage(tiles))
    assert picture.shape == (2 * (176 + 2 * 17 + 10) + 10, 4 * 186 + 10, 3)
    assert (picture == 128).all(-1).sum() == pytest.approx(5 * 176**2, rel=0.002)
    framed = np.argwhere((picture == (213, 94, 0)).all(-1))
    assert framed.min(0).tolist() == [6, 6] and framed.max(0).tolist() == [189, 189]


def test_a_caption_does_not_run_into_the_next_patch() -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    below = pixels(montage([Tile.of(grey, "a long slide näme " * 20), Tile.of(grey, "")]))[190:205]
    assert below[:, 10:186].min() < 100
    assert (below[:, 187:] == 255).all()


def test_title_and_notes_stand_above_and_below_the_patches_within_the_picture() -> None:
    grey = [Tile.of(np.full((8, 8, 3), 128, np.uint8), "")] * 4
    plain, noted = pixels(montage(grey)), pixels(montage(grey, "a title", ["word " * 60, "another"]))
    added = noted.shape[0] - plain.shape[0]
    assert noted.shape[1] == plain.shape[1] and added == 27 + 17 * 4 + 10  # the first note takes three lines
    assert noted[:27].min() < 100 and noted[-78:].min() < 140 and (noted[:, -10:] == 255).all()


def test_the_scale_is_viridis_with_its_middle_at_the_mean() -> None:
    low, below, middle, high, above = shade(np.array([-2.5, -9, 0, 2.5, 9])).tolist()
    assert low == below == [68, 1, 84] and high == above == [253, 231, 36]
    assert middle == viridis(np.array([0.5]))[0].tolist() and middle[2] > 130


def test_the_lightness_of_the_scale_grows_steadily_for_any_eye() -> None:
    """Twenty steps of its CIELAB lightness are all between 2 and 6, in usual sight and in simulated colour blindness."""
    colours = viridis(np.linspace(0, 1, 21)).astype(float)
    for matrix in (None, PROTAN, DEUTAN):
        steps = np.diff(seen(colours, matrix)[:, 0])
        assert steps.min() > 2 and steps.max() < 6


def test_a_crop_follows_its_frame_beyond_the_edge_of_the_picture() -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, 10:] = 200
    found = np.asarray(crop(picture, (0.5, 0.0, 1.5, 1.0), (40, 20)))
    assert (
        found.shape == (20, 40, 3)
        and (abs(found[:, 4:18].astype(int) - 200) < 10).all()
        and (found[:, 22:] == GLASS).all()
    )
    assert (np.asarray(crop(picture, (1.0, 0.0, 2.0, 1.0), (4, 4))) == GLASS).all()


def test_panels_stand_beside_each_other_or_in_two_columns_above_the_bar() -> None:
    def panels(width: int, height: int) -> list[Panel]:
        return [Panel.of(name, Image.new("RGB", (width, height), RED)) for name in "abcd"]

    tall, wide = pixels(combined("slide", panels(200, 400))), pixels(combined("slide", panels(400, 200)))
    assert tall.shape[1] == 4 * 210 + 10 and wide.shape[1] == 2 * 410 + 10
    for picture in (tall, wide):
        assert (picture == RED).all(-1).sum() == 4 * 200 * 400
        bar = picture[-90:]
        assert (bar == shade(np.array([-2.5]))[0]).all(-1).any() and (bar == shade(np.array([2.5]))[0]).all(-1).any()


def test_the_page_holds_its_pictures_its_scale_and_escapes_names() -> None:
    panel = Panel("tissue", b"picture")
    assert panel.uri == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    slide = SlideMap("a<b>", 12, [panel, Panel("component 1", b"map")])
    page = MapPage(
        "Maps", ["3 slides"], ["one colour, one kind"], [slide], "sgcl embed", [("model", "id 7")], ["b fails"]
    )
    html = render(page)
    assert panel.uri in html and "a&lt;b&gt;" in html and "a<b>" not in html and "<script" not in html
    assert all(text in html for text in ("3 slides", "one colour, one kind", "sgcl embed", "id 7", "b fails"))
    assert BAR_NAME in html and re.findall(r">([-+]?\d)</text>", html) == ["-2", "-1", "0", "+1", "+2"]
    assert html.count("<stop ") == 24 and "#440154" in html and "#fde724" in html
