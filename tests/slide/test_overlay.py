from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from sgcl_cli.slide import colours
from sgcl_cli.slide.jpeg import encode
from sgcl_cli.slide.lattice import Geometry, lay
from sgcl_cli.slide.overlay import draw, outlines, reduced


def ring_mask() -> np.ndarray:
    rows, columns = np.indices((120, 160))
    distance = np.hypot(columns - 60, rows - 60)
    mask = (distance < 45) & (distance > 15)
    mask[80:110, 120:150] = True
    return mask


def test_outlines_enclose_what_the_mask_shows_holes_included():
    mask, scale = ring_mask(), (32.0, 31.5)
    collection = json.loads(json.dumps(outlines(mask, scale)))
    assert collection["type"] == "FeatureCollection"
    drawn = np.zeros((480, 640), np.uint8)
    for feature in collection["features"]:
        assert feature["type"] == "Feature" and feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "Tissue"
        assert feature["geometry"]["type"] == "Polygon"
        rings = [np.array(ring) / scale * 4 for ring in feature["geometry"]["coordinates"]]
        assert all((ring[0] == ring[-1]).all() and len(ring) >= 4 for ring in rings)
        cv2.fillPoly(drawn, [np.rint(ring).astype(np.int32) for ring in rings], 1)
    assert sorted(len(feature["geometry"]["coordinates"]) for feature in collection["features"]) == [1, 2]
    expected = mask.repeat(4, 0).repeat(4, 1)
    assert (drawn.astype(bool) & expected).sum() / (drawn.astype(bool) | expected).sum() > 0.97


def test_no_tissue_gives_an_empty_collection():
    assert outlines(np.zeros((10, 10), bool), (1.0, 1.0)) == {"type": "FeatureCollection", "features": []}


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def test_outlines_count_from_the_corner_of_what_qupath_shows():
    mask, scale = ring_mask(), (32.0, 31.5)
    plain, moved = outlines(mask, scale), outlines(mask, scale, (1500, 900))
    for one, other in zip(plain["features"], moved["features"], strict=True):
        for ring, back in zip(one["geometry"]["coordinates"], other["geometry"]["coordinates"], strict=True):
            np.testing.assert_allclose(np.add(back, (1500, 900)), ring, atol=1e-9)


def test_picture_marks_patches_and_outlines_and_enlarges_small_slides():
    mask = np.zeros((100, 120), bool)
    mask[20:60, 20:60] = True
    lattice = lay(mask, (1200, 1000), Geometry(200, 0, 0.5, 0.5), 0.9)
    assert lattice.grid.tolist() == [[1, 1], [2, 1], [1, 2], [2, 2]]
    base = white(100, 120)
    picture = draw(base, (1200, 1000), mask, lattice, (200, 200))
    assert picture.shape == (1600, 1920, 3)
    assert (picture[1200:, 1200:] == 255).all() and (base == 255).all()
    inside = picture[480, 480]
    assert inside[2] > inside[0] > 200
    assert (picture[500, 636:646] == colours.PATCH).all(axis=1).sum() == 1
    assert (picture[326:634, 318:323] == colours.TISSUE).all(axis=2).any(axis=1).all()
    empty = draw(base, (10, 10), np.zeros_like(mask), lay(~mask, (10, 10), Geometry(20, 0, 1, 1), 0), (20, 20))
    assert (empty == 255).all()


def test_the_picture_may_be_finer_than_the_mask():
    mask = np.zeros((50, 60), bool)
    mask[10:30, 10:30] = True
    lattice = lay(mask, (1200, 1000), Geometry(200, 0, 0.5, 0.5), 0.9)
    texture = np.random.default_rng(0).integers(0, 255, (2000, 2400, 3), np.uint8)
    picture = draw(texture, (1200, 1000), mask, lattice, (200, 200))
    assert picture.shape == texture.shape and (picture[1300:, 1300:] == texture[1300:, 1300:]).all()
    tinted = 0.88 * texture[420:780, 420:780] + 0.12 * np.array(colours.PATCH)
    assert np.abs(picture[420:780, 420:780] - tinted).max() <= 1
    outline = (picture == colours.TISSUE).all(axis=2)
    assert np.abs(np.argwhere(outline).min(axis=0) - 400).max() <= 4


def frames(side: int) -> tuple[float, float]:
    """How dark the frames of patches of ``side`` pixels are, and the share of the picture that they take."""
    mask = np.ones((30, 30), bool)
    lattice = lay(mask, (3000, 3000), Geometry(side, 0, 1, 1), 0.5)
    inner = draw(white(3000, 3000), (3000, 3000), mask, lattice, (side, side))[100:1100, 100:1100, 0].astype(float)
    tint = 0.88 * 255 + 0.12 * colours.PATCH[0]
    return (tint - inner.min()) / (tint - colours.PATCH[0]), float((inner < tint - 2).mean())


def test_frames_stay_thin_and_fade_where_patches_are_small():
    strength, share = zip(*(frames(side) for side in (4, 8, 14, 30, 150)), strict=True)
    assert strength[0] == pytest.approx(0, abs=0.02) and strength[1] == pytest.approx(1 / 3, abs=0.02)
    assert strength[2:] == pytest.approx((1, 1, 1), abs=0.02)
    assert share[2] < 0.15 and share[3] < 0.07 and share[4] < 0.015


def test_classes_have_their_colours_and_patches_without_one_are_only_framed():
    mask = np.ones((100, 100), bool)
    lattice = lay(mask, (1000, 1000), Geometry(500, 0, 0.5, 0.5), 0.5)
    picture = draw(white(100, 100), (1000, 1000), mask, lattice, (500, 500), label=np.array([0, 1, -1, 20], np.int16))
    centres = [picture[500, 500], picture[500, 1500], picture[1500, 500], picture[1500, 1500]]
    assert (centres[0] == centres[3]).all() and (centres[2] == 255).all()
    for number in (0, 1):
        np.testing.assert_allclose(centres[number], 255 - 0.28 * (255 - np.array(colours.of_class(number))), atol=1)
    assert (picture[1000, 100:900] == colours.UNKNOWN).all(axis=1).any()


def test_ink_is_hatched_and_not_covered():
    mask, ink = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    ink[20:50, 20:50] = True
    lattice = lay(mask, (1000, 1000), Geometry(500, 0, 0.5, 0.5), 0.5)
    for value in (20, 235):
        picture = draw(np.full((100, 100, 3), value, np.uint8), (1000, 1000), mask, lattice, (500, 500), ink=ink)
        inside = picture[440:960, 440:960, 0]
        assert (inside == 0).mean() == pytest.approx(0.2, abs=0.01) and (inside == 255).mean() == pytest.approx(
            0.1, abs=0.01
        )
        assert (inside == value).mean() == pytest.approx(0.7, abs=0.01)
        assert (picture[1100:] == value).all()


def test_small_copies_keep_their_proportions():
    pixels = np.zeros((900, 1200, 3), np.uint8)
    pixels[:, 600:] = 255
    small = cv2.imdecode(np.frombuffer(reduced(encode(pixels, 90), 300), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (225, 300, 3) and small[:, :140].max() < 20 and small[:, 160:].min() > 235
    tiny = cv2.imdecode(np.frombuffer(reduced(encode(pixels[:90, :120], 90), 300), np.uint8), cv2.IMREAD_COLOR)
    assert tiny.shape == (90, 120, 3)


def test_jpeg_is_420_at_the_asked_quality():
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), (256, 256))
    data = encode(pixels, 90)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - pixels).mean() < 4
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22
    assert len(encode(pixels, 50)) < len(data)
