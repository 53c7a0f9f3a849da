from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.maps import MapPage, SlideMap, Tile, montage, paint, render

RED, BLUE = (200, 0, 0), (0, 0, 200)


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
    assert picture.shape == (2 * (160 + 2 * 14 + 8) + 8, 4 * 168 + 8, 3)
    assert (picture == 128).all(-1).sum() == pytest.approx(5 * 160**2, rel=0.001)
    framed = np.argwhere((picture == (15, 118, 110)).all(-1))
    assert framed.min(0).tolist() == [5, 5] and framed.max(0).tolist() == [170, 170]


def test_a_caption_does_not_run_into_the_next_patch() -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    below = pixels(montage([Tile.of(grey, "a long slide name " * 20), Tile.of(grey, "")]))[172:184]
    assert below[:, 8:168].min() < 100
    assert (below[:, 169:] == 255).all()


def test_the_page_holds_its_pictures_and_escapes_names() -> None:
    slide = SlideMap("a<b>", 12, b"picture")
    assert slide.uri == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    page = MapPage(
        "Maps", ["3 slides"], "one colour, one kind", [slide], "sgcl embed", [("model", "id 7")], ["b fails"]
    )
    html = render(page)
    assert slide.uri in html and "a&lt;b&gt;" in html and "a<b>" not in html and "<script" not in html
    assert all(text in html for text in ("3 slides", "one colour, one kind", "sgcl embed", "id 7", "b fails"))
